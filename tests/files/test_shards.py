"""Files that appear whole or not at all, and shards: what goes in comes out, twice the same bytes."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from cleanfid.fid import get_files_features
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lethe.files.loaded import Loaded
from lethe.files.shards import (
    check_images,
    image_name,
    picture_names,
    read_cells,
    read_images,
    read_pictures,
    read_rows,
    rows_as_csv,
    write_shard,
)
from lethe.files.tables import read_texts
from lethe.files.whole import folder_written_whole, written_whole
from lethe.messages import sentence
from running import ROOT

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


# Whole files


def test_a_file_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "new" / "deep" / "file.txt"
    with written_whole(path) as part:
        part.write_text("half")
        assert not path.exists()
        assert part.parent == path.parent
        part.write_text("whole")
    assert path.read_text() == "whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_interrupted_write_leaves_nothing(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(error), written_whole(path) as part:
        part.write_text("half")
        raise error
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="stop"), written_whole(path) as part:
        part.write_text("new")
        raise ValueError("stop")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_block_that_writes_nothing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), written_whole(tmp_path / "file.txt"):
        pass


KILLED = """
import os, signal, sys
from pathlib import Path
from lethe.files.whole import folder_written_whole, written_whole
with written_whole(Path(sys.argv[1])) as part, folder_written_whole(Path(sys.argv[2])) as folder:
    part.write_text("half")
    (folder / "half").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    path, folder = tmp_path / "file.txt", tmp_path / "folder"
    library = os.environ | {"PYTHONPATH": str(ROOT / "workflow")}
    run = subprocess.run([sys.executable, "-c", KILLED, path, folder], env=library, check=False)
    assert run.returncode == -signal.SIGKILL
    assert len(list(tmp_path.iterdir())) == 2
    others = {
        tmp_path / ".file.txt.old.12345678.part",
        tmp_path / ".file.part",
        tmp_path / ".my.file.txt.12345678.part",
    }
    for other in others:
        other.touch()  # of other files
    with written_whole(path) as part, folder_written_whole(folder) as new:
        part.write_text("whole")
        (new / "whole").touch()
    assert set(tmp_path.iterdir()) == {path, folder, *others}
    assert path.read_text() == "whole"
    assert [left.name for left in folder.iterdir()] == ["whole"]


def test_the_last_to_begin_writes_the_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with (
        pytest.raises(FileNotFoundError, match="file.txt: .*another process began to write it"),
        written_whole(path) as a,
    ):
        a.write_text("old")
        with written_whole(path) as b:
            b.write_text("new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_an_error_on_the_way_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as caught, written_whole(tmp_path / "file.txt"):
        raise OSError(28, "No space left on device")
    assert sentence(caught.value) == f"No space left on device (while writing {tmp_path / 'file.txt'})"


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


def image_bytes(colour: object, kind: str, mode: str = "RGB", size: tuple[int, int] = (8, 6)) -> bytes:
    file = io.BytesIO()
    Image.new(mode, size, colour).save(file, kind)
    return file.getvalue()


MEMBERS = {
    "val2014/COCO_000000000042.jpg": image_bytes((200, 0, 0), "JPEG"),
    "a picture, Ünder.PNG": image_bytes((0, 200, 0), "PNG"),
    "deep/er/grey.jpeg": image_bytes(99, "JPEG", "L", (5, 7)),
    "palette.png": image_bytes(0, "PNG", "P"),
    "print.jpg": image_bytes((0, 0, 0, 0), "JPEG", "CMYK"),
}
BESIDE = {"rows.csv": b"row\n", ".hidden/x.jpg": b"", "__MACOSX/._x.jpg": b"", "Thumbs.db": b""}


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
        (image_bytes(0, "GIF", "L"), "x.jpg is no PNG or JPEG that can be read"),
        (image_bytes(0, "BMP"), "x.jpg is no PNG or JPEG that can be read"),
        (image_bytes(0, "PNG", "I;16"), "x.jpg has more than 8 bits a channel; save it with 8"),
    ],
)
def test_what_is_no_image_by_its_content_is_named_first(tmp_path: Path, content: bytes, told: str) -> None:
    members = {"a.png": MEMBERS["palette.png"], "x.jpg": content}
    for path in (folder_of(tmp_path / "folder", members), zip_of(tmp_path / "a.zip", members)):
        with pytest.raises(ValueError, match=re.escape(f"{path}: {told}")):
            check_images(path, picture_names(path))


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_damaged_image_is_named_when_it_is_read(tmp_path: Path, kind: str) -> None:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(file, kind)
    for path in (
        folder_of(tmp_path / "folder", {"x.png": file.getvalue()[:900]}),
        zip_of(tmp_path / "a.zip", {"x.png": file.getvalue()[:900]}),
    ):
        check_images(path, ["x.png"])  # its header is whole
        with pytest.raises(ValueError, match="x.png is no PNG or JPEG that can be read .*truncated.*; make it again"):
            list(read_pictures(path, ["x.png"]))


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


# Whole folders


def test_a_folder_appears_at_the_end_and_alone(tmp_path: Path) -> None:
    for name in ("new", "empty"):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with folder_written_whole(tmp_path / name) as part:
            (part / "deep").mkdir()
            (part / "deep" / "file").write_text("x")
            assert not (tmp_path / name / "deep").exists()
        assert (tmp_path / name / "deep" / "file").read_text() == "x"
    assert {path.name for path in tmp_path.iterdir()} == {"new", "empty"}


def test_a_folder_that_fails_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), folder_written_whole(tmp_path / "new") as part:
        (part / "file").write_text("x")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_anything_in_it_is_refused_and_kept(tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / ".hidden").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for name in ("full", "file"):
        text = f"{name}: it is there already; name a folder that does not exist or is empty"
        with pytest.raises(ValueError, match=text), folder_written_whole(tmp_path / name):
            pass
    assert (tmp_path / "full" / ".hidden").read_text() == (tmp_path / "file").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o007, 0o660)])
def test_others_may_read_what_the_umask_lets_them(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        with written_whole(tmp_path / "file") as part:
            part.touch(mode=0o600)
        after = os.umask(umask)
    finally:
        os.umask(before)
    assert after == umask  # left as it was
    assert (tmp_path / "file").stat().st_mode & 0o777 == mode
