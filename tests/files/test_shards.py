"""Shards: what goes in comes out, twice the same bytes; images and texts of others are read or refused."""

from __future__ import annotations

import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cleanfid.fid import get_files_features
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from bad_input import GOOD, PICKLE, Act, Case, Place, Prepare, each_of, file_for, image_bytes, refusals, zipped
from lethe.files.loaded import Loaded
from lethe.files.shards import (
    check_images,
    holds_rows,
    image_name,
    image_names,
    picture_names,
    read_beside,
    read_cells,
    read_images,
    read_pictures,
    read_rows,
    rows_as_csv,
    write_shard,
)
from lethe.files.tables import read_texts

ODD = [
    "NA",
    "",
    "null",
    "=1+1",
    "1.0",
    "007",
    '"quoted"',
    "it's",
    "a,b;c\td",
    "a\nb",
    "a\r\nb",
    "a\rb",
    " edges ",
    "🦋 é 葛",
]


def rows_of(prompts: list[str], **more: list) -> pd.DataFrame:
    seeds = [10 * k for k in range(len(prompts))]
    return pd.DataFrame({"type": prompts, "prompt": prompts, "evaluation_seed": seeds, **more}).rename_axis("row")


def some_images(n: int, *shape: int) -> list[np.ndarray]:
    return list(np.random.default_rng(n).integers(0, 256, (n, *shape), dtype=np.uint8))


# Shards


@pytest.mark.parametrize("shape", [(8, 6, 3), (8, 6)], ids=["colour", "grey"])
def test_a_shard_comes_back(tmp_path: Path, shape: tuple[int, ...]) -> None:
    rows, images = rows_of(["a ship", "a bird", "a cat"]), some_images(3, *shape)
    rows.index = pd.Index([240, 241, 1_000_000], name="row")
    write_shard(tmp_path / "deep" / "shard.zip", rows, images)
    back = read_images(tmp_path / "deep" / "shard.zip")
    assert all(np.array_equal(a, b) and b.dtype == np.uint8 for a, b in zip(images, back, strict=True))
    pd.testing.assert_frame_equal(read_rows(tmp_path / "deep" / "shard.zip"), rows)
    some = read_images(tmp_path / "deep" / "shard.zip", [1_000_000, 240])
    assert np.array_equal(some, [images[2], images[0]])
    with zipfile.ZipFile(tmp_path / "deep" / "shard.zip") as archive:
        assert archive.namelist() == ["rows.csv", "000240.png", "000241.png", "1000000.png"]
        with archive.open(image_name(240)) as file:
            assert Image.open(file).format == "PNG"


def test_equal_shards_have_equal_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, images = rows_of(ODD), some_images(len(ODD), 4, 4, 3)
    write_shard(tmp_path / "a.zip", rows, images)
    monkeypatch.setattr("time.time", lambda: 2e9)
    monkeypatch.setattr("os.getpid", lambda: 1)
    monkeypatch.setattr("secrets.token_hex", lambda size: "ab" * size)
    write_shard(tmp_path / "b.zip", rows.copy(), [image.copy() for image in images])
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    images[-1][0, 0, 0] ^= 1
    write_shard(tmp_path / "c.zip", rows, images)
    assert (tmp_path / "a.zip").read_bytes() != (tmp_path / "c.zip").read_bytes()


def test_clean_fid_reads_a_shard(tmp_path: Path) -> None:
    rows, images = rows_of(["a", "b", "c"]), some_images(3, 5, 4, 3)
    path = tmp_path / "shard.zip"
    write_shard(path, rows, images)
    seen = get_files_features(
        [image_name(row) for row in rows.index[::-1]],
        lambda pixels: pixels.flatten(1),
        num_workers=0,
        custom_fn_resize=lambda image: image.astype(np.float32),
        device="cpu",
        fdir=str(path),
        verbose=False,
    )
    assert np.array_equal(seen, [image.transpose(2, 0, 1).ravel() for image in images[::-1]])


@pytest.mark.parametrize("n", [0, 1, 3])
def test_rows_and_images_must_pair_up(tmp_path: Path, n: int) -> None:
    text = f"write_shard: `images` must have one image per row; got {n} for 2 rows"
    with pytest.raises(ValueError, match=text):
        write_shard(tmp_path / "shard.zip", rows_of(["a", "b"]), some_images(n, 4, 4, 3))
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        write_shard(tmp_path / "shard.zip", rows_of(["a", "b"]), [some_images(1, 4, 4, 3)[0], np.zeros((2, 2, 9))])
    assert list(tmp_path.iterdir()) == []


# Rows


@pytest.mark.parametrize("prompt", ODD, ids=repr)
def test_a_text_is_only_a_text(tmp_path: Path, prompt: str) -> None:
    rows = rows_of([prompt, "b"])
    write_shard(tmp_path / "shard.zip", rows, some_images(2, 4, 4, 3))
    pd.testing.assert_frame_equal(read_rows(tmp_path / "shard.zip"), rows)


# A NUL ends a field for pandas, and half a surrogate pair is no text.
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(prompts=st.lists(TEXT, min_size=1, max_size=5))
def test_any_rows_come_back_from_their_csv(tmp_path_factory: pytest.TempPathFactory, prompts: list[str]) -> None:
    rows, path = rows_of(prompts), tmp_path_factory.mktemp("csv") / "shard.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rows.csv", rows_as_csv(rows))
    pd.testing.assert_frame_equal(read_rows(path), rows)


def test_further_columns_stay(tmp_path: Path) -> None:
    rows = rows_of(["a", "b"], case_number=[7, 9], source=["x", "y"])
    write_shard(tmp_path / "shard.zip", rows, some_images(2, 4, 4, 3))
    pd.testing.assert_frame_equal(read_rows(tmp_path / "shard.zip"), rows)


def test_single_cells_are_the_texts_of_the_rows(tmp_path: Path) -> None:
    rows = rows_of(ODD, found=list(range(len(ODD))))
    rows.index = rows.index[::-1]
    write_shard(tmp_path / "a.zip", rows, some_images(len(ODD), 2, 2, 3))
    assert read_cells(tmp_path / "a.zip", "prompt") == ODD
    assert [int(cell) for cell in read_cells(tmp_path / "a.zip", "row")] == rows.index.tolist()
    assert [int(cell) for cell in read_cells(tmp_path / "a.zip", "found")] == rows["found"].tolist()
    with pytest.raises(KeyError, match="absent"):
        read_cells(tmp_path / "a.zip", "absent")


def test_a_table_of_others_gets_row_numbers(tmp_path: Path) -> None:
    path = tmp_path / "shard.zip"
    with zipfile.ZipFile(path, "w") as archive:
        content = b'\xef\xbb\xbftype,prompt,evaluation_seed\r\nhate,NA,5\r\nharm,"a, b",6\r\n'
        archive.writestr("rows.csv", content)
    rows = read_rows(path)
    assert rows.index.name == "row"
    assert list(rows.itertuples(name=None)) == [(0, "hate", "NA", 5), (1, "harm", "a, b", 6)]


# Real images


def coloured(colour: object, kind: str, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    return image_bytes(Image.new(mode, size, colour), kind)


MEMBERS = {
    "val2014/COCO_000000000042.jpg": coloured((200, 0, 0), "JPEG"),
    "a picture, Ünder.PNG": coloured((0, 200, 0), "PNG"),
    "deep/er/grey.jpeg": coloured(99, "JPEG", "L", (5, 7)),
    "palette.png": coloured(0, "PNG", "P"),
    "print.jpg": coloured((0, 0, 0, 0), "JPEG", "CMYK"),
}
BESIDE = {"rows.csv": b"row\n", ".hidden/x.jpg": b"", "__MACOSX/._x.jpg": b"", "Thumbs.db": b"", "samples.json": b""}


def folder_of(folder: Path, members: dict[str, bytes]) -> Path:
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def zip_of(path: Path, members: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.mkdir("val2014")
        for name, content in members.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("kind", ["folder", "zip", "archive of another name"])
def test_real_images_have_any_names_and_come_in_colour(tmp_path: Path, kind: str) -> None:
    members = MEMBERS | BESIDE
    path = folder_of(tmp_path / "real.zip.d", members) if kind == "folder" else zip_of(tmp_path / kind, members)
    names = picture_names(path)
    assert names == sorted(MEMBERS)
    check_images(path, names)
    found = dict(zip(names, read_pictures(path, names), strict=True))
    assert all(image.dtype == np.uint8 and image.shape[2] == 3 for image in found.values())
    assert found["deep/er/grey.jpeg"].shape == (7, 5, 3)
    assert abs(found["val2014/COCO_000000000042.jpg"].astype(int) - (200, 0, 0)).max() < 4
    assert found["print.jpg"].min() > 250  # no ink


@pytest.mark.parametrize("put", [folder_of, zip_of])
def test_what_lies_beside_images_can_be_read_and_left_out(tmp_path: Path, put: Callable[..., Path]) -> None:
    path = put(tmp_path / "real", {"a.png": MEMBERS["palette.png"], "in/prompts.csv": b"file,prompt\n"})
    assert picture_names(path, ["in/prompts.csv"]) == ["a.png"]
    assert read_beside(path, "in/prompts.csv") == b"file,prompt\n"
    assert read_beside(path, "prompts.csv") is None
    assert not holds_rows(path)


def test_a_shard_is_told_by_its_rows_and_its_images_by_their_numbers(tmp_path: Path) -> None:
    rows = rows_of(["a", "b"]).assign(name="a column of the suite")
    write_shard(tmp_path / "shard.zip", rows, some_images(2, 4, 4, 3))
    assert holds_rows(tmp_path / "shard.zip")
    assert image_names(read_rows(tmp_path / "shard.zip")) == picture_names(tmp_path / "shard.zip")
    assert image_names(pd.DataFrame({"name": ["x.png"], "prompt": ["a"]})) == ["x.png"]
    assert image_names(pd.DataFrame({"prompt": ["a", "b"]})) == ["000000.png", "000001.png"]


def test_images_behind_links_are_found_once(tmp_path: Path) -> None:
    elsewhere = folder_of(tmp_path / "elsewhere", {"a.png": MEMBERS["palette.png"], "in/b.png": MEMBERS["palette.png"]})
    (elsewhere / "in" / "back").symlink_to(elsewhere)
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "link").symlink_to(elsewhere)
    (tmp_path / "real" / "c.png").symlink_to(elsewhere / "a.png")
    assert picture_names(tmp_path / "real") == ["c.png", "link/a.png", "link/in/b.png"]
    assert len(list(read_pictures(tmp_path / "real", picture_names(tmp_path / "real")))) == 3


def test_the_names_of_a_shards_images_are_those_of_its_rows(tmp_path: Path) -> None:
    rows, images = rows_of(["a", "b"]), some_images(2, 4, 4, 3)
    write_shard(tmp_path / "shard.zip", rows, images)
    names = picture_names(tmp_path / "shard.zip")
    assert names == [image_name(row) for row in rows.index]
    assert np.array_equal(list(read_pictures(tmp_path / "shard.zip", names)), images)


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({}, "there is no PNG or JPEG in it; put images there"),
        ({"rows.csv": b""}, "there is no PNG or JPEG in it"),
        ({"notes.txt": b"", "a.png": b""}, "'notes.txt' in it is no PNG or JPEG by its name; remove it, or convert it"),
        ({"b.webp": b"", "c.bmp": b"", "a.png": b""}, "'b.webp' and 1 more files in it is no PNG or JPEG by its name"),
    ],
)
def test_what_is_no_image_by_its_name_is_named(tmp_path: Path, members: dict[str, bytes], told: str) -> None:
    (tmp_path / "folder").mkdir()
    for path in (folder_of(tmp_path / "folder", members), zip_of(tmp_path / "a.zip", members)):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {told}")):
            picture_names(path)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"text", "x.jpg is no PNG or JPEG that can be read"),
        (coloured(0, "GIF", "L"), "x.jpg is no PNG or JPEG that can be read"),
        (coloured(0, "BMP"), "x.jpg is no PNG or JPEG that can be read"),
        (coloured(0, "PNG", "I;16"), "x.jpg has more than 8 bits a channel; save it with 8"),
    ],
)
def test_what_is_no_image_by_its_content_is_named_first(tmp_path: Path, content: bytes, told: str) -> None:
    members = {"a.png": MEMBERS["palette.png"], "x.jpg": content}
    for path in (folder_of(tmp_path / "folder", members), zip_of(tmp_path / "a.zip", members)):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {told}")):
            check_images(path, picture_names(path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path, kind: str) -> None:
    content = image_bytes(Image.effect_noise((64, 64), 50), kind)[:900]
    for path in (
        folder_of(tmp_path / "folder", {"x.png": content}),
        zip_of(tmp_path / "a.zip", {"x.png": content}),
    ):
        check_images(path, ["x.png"])  # its header is whole
        with pytest.raises(ValueError, match="x.png is no PNG or JPEG that can be read .*truncated.*; make it again"):
            list(read_pictures(path, ["x.png"]))


# Bad input


def png_of(width: int, height: int) -> bytes:
    """The header of a PNG that says it is this large."""
    content = image_bytes(Image.new("L", (1, 1)))
    header = struct.pack(">II", width, height) + content[24:29]
    check = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return content[:16] + header + check + content[33:]


SHARD_ROWS = "row,type,prompt,evaluation_seed\n0,ship,a ship,1\n"
POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(canary) (w) file closefile\n%%EOF\n"


def shard_with(image: bytes) -> bytes:
    return zipped(("rows.csv", SHARD_ROWS), ("000000.png", image))


def link(name: str, target: str) -> tuple[zipfile.ZipInfo, str]:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info, target


def rows_that_promise_much(place: Place) -> Act:
    """The size of the first member stands before it and in the list of members."""
    content, size = shard_with(GOOD), struct.pack("<I", (1 << 32) - 2)
    at = content.index(b"PK\1\2") + 24
    path = place.write("shard.zip", content[:22] + size + content[26:at] + size + content[at + 4 :])
    return lambda: read_images(path)


def twice(place: Place) -> Act:
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zipped(("rows.csv", SHARD_ROWS), ("000000.png", GOOD), ("000000.png", PICKLE))
    path = place.write("shard.zip", content)
    return lambda: read_images(path)


def no_rows(place: Place) -> Act:
    path = place.write(
        "shard.zip", zipped(("rows.csv", SHARD_ROWS.replace("ship,a", "ship,a,a")), ("000000.png", GOOD))
    )
    return lambda: read_cells(path, "row")


def to_measure(content: bytes) -> Prepare:
    """Images of others go to CLIP through clean-fid, which would open any format."""

    def prepare(place: Place) -> Act:
        path = place.write("real.zip", content)
        return lambda: check_images(path, ["000000.png"]) or list(read_pictures(path, ["000000.png"]))

    return prepare


def members_elsewhere(place: Place) -> Act:
    names = ["../evil.png", "/tmp/evil.png", "..\\evil.png", "canary/"]
    others = [(name, GOOD) for name in names] + [link("000001.png", str(place.outside))]
    path = place.write("results/shard.zip", zipped(("rows.csv", SHARD_ROWS), ("000000.png", GOOD), *others))

    def act() -> None:
        (image,) = read_images(path)
        assert image.shape == (4, 4, 3)

    return act


CASES = [
    *refusals(
        "a shard",
        {
            "no archive": (b"rows", ("shard.zip: this is no zip archive", "make it again")),
            "empty": (b"", ("shard.zip: this is no zip archive",)),
            "cut short": (shard_with(GOOD)[:-30], ("shard.zip: this is no zip archive, or a damaged one",)),
            "damaged inside": (
                shard_with(GOOD).replace(b"a ship", b"b ship"),
                ("shard.zip: this is no zip archive, or a damaged one", "CRC"),
            ),
            "rows missing": (zipped(("000000.png", GOOD)), ("shard.zip: There is no item named 'rows.csv'",)),
            "rows as a link": (
                zipped(link("rows.csv", "../../outside/mine.txt"), ("000000.png", GOOD)),
                ("shard.zip: rows.csv: the column type is missing",),
            ),
            "image missing": (zipped(("rows.csv", SHARD_ROWS)), ("shard.zip: There is no item named '000000.png'",)),
            "image as a link": (
                zipped(("rows.csv", SHARD_ROWS), link("000000.png", "/etc/passwd")),
                ("shard.zip: 000000.png is no PNG that can be read",),
            ),
            "row like a path": (
                zipped(("rows.csv", SHARD_ROWS.replace("0,", "../../x,")), ("../../x.png", GOOD)),
                ("shard.zip: rows.csv, line 2: row must be a whole number", "got '../../x'"),
            ),
            "row twice": (
                zipped(("rows.csv", SHARD_ROWS + "0,ship,a ship,2\n"), ("000000.png", GOOD)),
                ("rows.csv, line 3: row 0 is already in line 2",),
            ),
            "image of 900 million pixels": (
                shard_with(png_of(30_000, 30_000)),
                ("000000.png is no PNG", "decompression"),
            ),
            "text as an image": (shard_with(b"image"), ("000000.png is no PNG that can be read",)),
            "pickle as an image": (shard_with(PICKLE), ("000000.png is no PNG that can be read",)),
            "PostScript as an image": (shard_with(POSTSCRIPT), ("000000.png is no PNG that can be read",)),
            "JPEG as an image": (shard_with(image_bytes(Image.new("RGB", (4, 4)), "JPEG")), ("000000.png is no PNG",)),
            "image cut short": (
                shard_with(image_bytes(Image.effect_noise((64, 64), 50))[:900]),
                ("000000.png is no PNG that can be read", "truncated"),
            ),
            "image of a palette": (shard_with(image_bytes(Image.new("P", (4, 4)))), ("a PNG of mode P, not L or RGB",)),
            "image of 16 bits": (
                shard_with(image_bytes(Image.fromarray(np.full((4, 4), 999, np.uint16)))),
                ("a PNG of mode I;16, not L or RGB", "save it with 8 bits"),
            ),
        },
        file_for(read_images, "shard.zip"),
    ),
    Case(
        "a shard: rows that promise four gigabytes",
        rows_that_promise_much,
        ("shard.zip: rows.csv takes 4294967294 bytes, more than 268435456", "split it"),
    ),
    Case("a shard: image twice", twice, ("shard.zip: it holds '000000.png' twice", "make it again")),
    Case("a shard: rows ragged", no_rows, ("shard.zip: rows.csv, line 2: there are more cells than columns",)),
    Case("a shard: members named elsewhere are never unpacked", members_elsewhere),
    *refusals(
        "images to measure",
        {
            "PostScript": (shard_with(POSTSCRIPT), ("real.zip: 000000.png is no PNG",)),
            "900 million pixels": (
                shard_with(png_of(30_000, 30_000)),
                ("real.zip: 000000.png is no PNG", "decompression"),
            ),
            "16 bits": (
                shard_with(image_bytes(Image.fromarray(np.full((4, 4), 999, np.uint16)))),
                ("real.zip: 000000.png has more than 8 bits a channel",),
            ),
        },
        to_measure,
    ),
]


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@each_of(CASES)
def test_a_bad_archive_is_refused_and_nothing_is_unpacked(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)


# Texts


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\v", "\f"])
def test_a_text_may_hold_what_ends_lines_elsewhere(tmp_path: Path, inside: str) -> None:
    path = tmp_path / "captions.txt"
    path.write_bytes(f"a cat{inside}and a dog\r\n\n a bird{inside}\n".encode())
    assert read_texts(path, None) == [f"a cat{inside}and a dog", "a bird"]


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("prompts.csv", "prompt\nA bicycle.\n", "it is a table, whose header and cells are no texts; name the column"),
        ("names.json", '{"ship": []}', "it is JSON, whose lines are no texts; write one text a line"),
        ("names.txt", '[\n"ship"]', "it is JSON"),
        ("names.txt", "a\rb", "line 1: it holds a carriage return"),
    ],
)
def test_read_texts_takes_no_table_and_no_json_for_lines(tmp_path: Path, name: str, content: str, told: str) -> None:
    (tmp_path / name).write_bytes(content.encode())
    with pytest.raises(ValueError, match=re.escape(told)):
        read_texts(tmp_path / name, None)


def test_read_texts_takes_a_column_as_text(tmp_path: Path) -> None:
    path = tmp_path / "captions.csv"
    path.write_text('\ufeffid,caption\n1,NA\n2,"a, b"\n\n3, Ü \n4,7\n', encoding="utf-8")
    assert read_texts(path, "caption") == ["NA", "a, b", "Ü", "7"]
    text = r"captions\.csv: there is no column 'prompt'; its columns are id, caption"
    with pytest.raises(ValueError, match=text):
        read_texts(path, "prompt")


@pytest.mark.parametrize("name", ["names.tsv", "names.TAB"])
def test_read_texts_separates_by_tabs_where_the_name_says_so(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text('id\tname\n1\tSmith, Adam\n2\tDwayne "The Rock" Johnson\n')
    assert read_texts(tmp_path / name, "name") == ["Smith, Adam", 'Dwayne "The Rock" Johnson']


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,caption\n1,a ship\n2, \n", "bad.csv, line 3: caption is empty; fill it in, or remove the row"),
        (b"id,caption\n1\n", "bad.csv, line 2: caption is empty"),
        (b"id,caption\n1,a ship, at sea\n", "bad.csv, line 2: there are more cells than columns; put cells that"),
        (b"id,caption\n1,caf\xe9\n", "bad.csv, line 2: it is no text in UTF-8; save it as such"),
        (b"id,caption\n", "bad.csv: there is no text in it"),
    ],
)
def test_read_texts_refuses_what_it_would_misread(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "bad.csv").write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(words)):
        read_texts(tmp_path / "bad.csv", "caption")


def test_read_texts_takes_lines(tmp_path: Path) -> None:
    path = tmp_path / "captions.txt"
    path.write_text("\ufeffa ship\n\n  an 'odd', \"one\" \r\n\t\nÜ", encoding="utf-8")
    assert read_texts(path, None) == ["a ship", "an 'odd', \"one\"", "Ü"]


@pytest.mark.parametrize(("content", "column"), [("caption\n", "caption"), ("\n \n", None), ("", None)])
def test_read_texts_refuses_a_file_without_any(tmp_path: Path, content: str, column: str | None) -> None:
    (tmp_path / "none.csv").write_text(content)
    with pytest.raises(ValueError, match=r"none\.csv: there is no text in it"):
        read_texts(tmp_path / "none.csv", column)


# Sequences of files


def test_loaded_reads_at_every_access(tmp_path: Path) -> None:
    paths = [tmp_path / name for name in "ab"]
    for path in paths:
        path.write_text(path.name)
    texts = Loaded(Path.read_text, paths)
    assert (len(texts), texts[1], list(texts)) == (2, "b", ["a", "b"])
    paths[1].write_text("c")
    assert list(texts) == ["a", "c"]  # nothing was kept


def test_loaded_does_not_take_an_error_for_the_end(tmp_path: Path) -> None:
    def fail(path: Path) -> str:
        raise IndexError(path)

    with pytest.raises(IndexError):
        list(Loaded(fail, [tmp_path]))
