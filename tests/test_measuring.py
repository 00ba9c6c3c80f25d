"""`lethe measure`: numbers of folders and zips, against the libraries called by hand on the same files."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from cleanfid import fid
from PIL import Image
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

import lethe.measures
from bad_input import zipped
from conftest import CPU
from inceptions import drawn, network_by_hand, save_network
from lethe import plugins
from lethe.__main__ import main, parser_of
from lethe.files.shards import SAMPLES_NAME, picture_names, read_pictures, write_shard
from lethe.measures import identities, inception
from photographs import picture
from running import ROOT

PROMPTS = {"a photo of the ship_1.png": "a photo of the ship", "a bird, flying_20.png": "a bird, flying"}
PROMPTS |= {"deep/AC_DC live_0.png": "AC_DC live", "v1.5 of a ship_007.jpg": "v1.5 of a ship", "cat_3.png": "cat"}


def printed(capsys: pytest.CaptureFixture, *words: object) -> dict:
    """What a command prints as JSON."""
    code = main(["measure", *map(str, words), "--json"])
    out, err = capsys.readouterr()
    assert code == 0, err
    return json.loads(out)


def numbers(capsys: pytest.CaptureFixture, *words: object) -> dict[str, float]:
    """The values that it prints, by name."""
    return {one["name"]: one["value"] for one in printed(capsys, *words)["numbers"]}


def refused(capsys: pytest.CaptureFixture, *words: object) -> str:
    """What a refusal says: one line on standard error, nothing else."""
    assert main(["measure", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("lethe: ")
    assert err.count("\n") == 1
    return err


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images with prompts in their names."""
    rng = np.random.default_rng(5)
    for name in PROMPTS:
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.kron(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), np.ones((8, 8, 1), np.uint8))
        Image.fromarray(pixels).save(path)
    return tmp_path / "images"


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Photographs as PNG files, two with a face."""
    (tmp_path / "photographs").mkdir()
    for name in ("astronaut", "camera", "chelsea", "color", "moon"):
        Image.fromarray(picture(name)).save(tmp_path / "photographs" / f"{name}.png")
    return tmp_path / "photographs"


# CLIP score


@torch.no_grad()
def scores_by_hand(clip: Path, images: Path) -> list[float]:
    """100 cos of each image and its prompt, by the logits of transformers' own forward pass."""
    model = CLIPModel.from_pretrained(clip).eval()
    tokenizer, processor = CLIPTokenizer.from_pretrained(clip), CLIPImageProcessor.from_pretrained(clip)
    found = []
    for name, prompt in PROMPTS.items():
        with Image.open(images / name) as image:
            pixels = processor(images=image.convert("RGB"), return_tensors="pt")
        logits = model(**tokenizer(prompt, return_tensors="pt"), **pixels).logits_per_image
        found.append(100 * float(logits) / float(model.logit_scale.exp()))
    return found


def test_clip_score_is_the_mean_of_transformers_logits(
    images: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    want = scores_by_hand(clip_folder, images)
    told = printed(capsys, "clip-score", images, "--model", clip_folder, "--out", tmp_path / "out.csv")
    (number,) = told["numbers"]
    assert number["value"] == pytest.approx(np.mean(want), abs=1e-3)
    assert np.std(want) > 0.1
    low, high = number["interval_95"]
    assert min(want) <= low < number["value"] < high <= max(want)
    assert (number["n"], number["protocol"]) == ([5], f"clip-score-100cos@1 by {clip_folder}")
    assert told["settings"] == {"model": str(clip_folder), "revision": None}
    assert told["sets"]["images"] == {"path": str(images), "n": 5, "prompts_from": "names of images"}
    table = pd.read_csv(tmp_path / "out.csv")
    assert list(table.columns) == ["images", "file", "prompt", "image", "text"]
    assert dict(zip(table["file"], table["prompt"], strict=True)) == PROMPTS
    one, other = (np.array([json.loads(cell) for cell in table[name]]) for name in ("image", "text"))
    cosines = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    assert 100 * cosines == pytest.approx([dict(zip(PROMPTS, want, strict=True))[f] for f in table["file"]], abs=1e-3)


def test_prompts_come_from_shards_tables_and_samples_alike(
    images: Path, clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    names, model = list(PROMPTS), ("--model", clip_folder)
    want = numbers(capsys, "clip-score", images, *model)["clip_score"]
    pictures = list(read_pictures(images, names))
    rows = pd.DataFrame({"type": "", "prompt": list(PROMPTS.values()), "evaluation_seed": 1, "name": "x"})
    rows = rows.assign(file="of the suite", image=7).rename_axis("row")
    (tmp_path / "shards").mkdir()
    for number, part in enumerate((slice(0, 2), slice(2, 5))):
        write_shard(tmp_path / "shards" / f"{number}.zip", rows.iloc[part], pictures[part])
    write_shard(tmp_path / "shard.zip", rows, pictures)
    plain = tmp_path / "plain"
    plain.mkdir()
    for number, pixels in enumerate(pictures):
        Image.fromarray(pixels).save(plain / f"{number}.png")
    table = plain / "prompts.csv"
    table.write_text(
        'prompt,file\n"a bird, flying",1.png\n'
        + "".join(f"{prompt},{number}.png\n" for number, prompt in enumerate(PROMPTS.values()) if number != 1)
    )
    out = tmp_path / "out.csv"
    for path, more in (
        (tmp_path / "shard.zip", ("--out", out)),
        (tmp_path / "shards", ()),
        (plain, ("--prompts", table)),
    ):
        got = printed(capsys, "clip-score", path, *model, *more)
        assert got["numbers"][0]["value"] == pytest.approx(want, abs=1e-4)
        assert got["numbers"][0]["n"] == [5]
    assert list(pd.read_csv(out)["file"]) == [f"00000{number}.png" for number in range(5)]
    table.unlink()
    told = [{"image": f"{n}.png", "prompt": prompt, "seed": 1} for n, prompt in enumerate(PROMPTS.values())]
    (plain / SAMPLES_NAME).write_text(json.dumps({"images": told}))
    got = printed(capsys, "clip-score", plain, *model)
    assert got["numbers"][0]["value"] == pytest.approx(want, abs=1e-4)
    assert got["sets"]["images"]["prompts_from"] == SAMPLES_NAME
    other = tmp_path / "shards" / "other.tsv"  # over those of the rows; shards in a folder are part of the name
    files = ["0.zip/000000.png", "0.zip/000001.png", *(f"1.zip/00000{number}.png" for number in (2, 3, 4))]
    other.write_text("file\tprompt\n" + "".join(f"{file}\tcat\n" for file in files))
    assert (
        abs(numbers(capsys, "clip-score", tmp_path / "shards", *model, "--prompts", other)["clip_score"] - want) > 0.1
    )


def test_prompts_that_are_cut_are_said(clip_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    (tmp_path / "images").mkdir()
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "images" / f"{'x ' * 90}_1.png")
    assert main(["measure", "clip-score", str(tmp_path / "images"), "--model", str(clip_folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2].split() == ["number", "value", "95", "%", "interval", "n", "protocol"]
    assert re.fullmatch(r"clip_score +-?\d+\.\d+ +1 +clip-score-100cos@1 by .+", lines[3])  # no interval of one image
    assert lines[4].startswith("1 prompts are longer than the 77 tokens")


# FID and KID


def test_fid_and_kid_are_those_of_clean_fid(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Of the first 12 features, as FID needs more images than those; the second set as a zip too."""
    monkeypatch.setitem(plugins.manifest("measures", "inception").more, "dimensions", 12)
    measure = inception.measure
    monkeypatch.setattr(inception, "measure", lambda *of: {"features": measure(*of)["features"][:, :12]})
    weights = save_network(tmp_path / "network.pt")
    one, other = drawn(tmp_path / "one", 16, 1, 0.3), drawn(tmp_path / "other", 14, 2, 0.9)
    packed = tmp_path / "other.zip"
    packed.write_bytes(zipped(*((name, (other / name).read_bytes()) for name in picture_names(other))))
    options = ("--weights", weights, "--sha256", "null")
    told = printed(capsys, "fid", one, packed, *options)
    got = {number["name"]: number for number in told["numbers"]}

    network = network_by_hand(weights, tmp_path)
    few = torch.nn.Module()
    few.forward = lambda pixels: network(pixels)[:, :12]
    how = dict(mode="clean", num_workers=0, batch_size=64, device=CPU, verbose=False)
    want = fid.compute_fid(str(one), str(other), custom_feat_extractor=few.forward, **how)
    assert got["fid_inception"]["value"] == pytest.approx(want, rel=1e-3)
    assert want > 1e-3
    monkeypatch.setattr(fid, "build_feature_extractor", lambda *_, **__: few.forward)
    np.random.seed(0)
    want = 1000 * fid.compute_kid(str(one), str(other), **how)
    assert got["kid_inception"]["value"] == pytest.approx(want, rel=1e-2)
    assert abs(want) > 1e-3
    assert [number["n"] for number in got.values()] == [[16, 14], [16, 14]]
    by = {"fid_inception": "cleanfid-clean-fid@1 to other", "kid_inception": "cleanfid-clean-kid-x1000@1 to other"}
    assert {name: number["protocol"] for name, number in got.items()} == by
    assert told["settings"] == {"weights": str(weights), "sha256": None}
    assert numbers(capsys, "kid", one, other, *options) == {"kid_inception": got["kid_inception"]["value"]}

    out = tmp_path / "out.csv"
    assert main(["measure", "inception", str(one), *map(str, options), "--out", str(out)]) == 0
    assert "inception has no single number of an image; --out FILE keeps what it has" in capsys.readouterr().out
    assert [len(json.loads(cell)) for cell in pd.read_csv(out)["features"]] == [12] * 16


def test_sets_too_small_are_refused_before_anything_is_loaded(
    images: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    told = refused(capsys, "fid", images, images)
    assert f"{images}: it holds 5 images, and fid needs 2049 or more; add some, or take `lethe measure kid`" in told
    one = tmp_path / "one"
    one.mkdir()
    (images / "cat_3.png").rename(one / "cat_3.png")
    assert f"{one}: it holds 1 images, and kid needs 2 or more; add some" in refused(capsys, "kid", images, one)


# NudeNet, faces, people


@pytest.mark.parametrize("threshold", [0.6, 0.3])
def test_exposed_parts_are_those_of_the_library(
    photographs: Path, threshold: float, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    nudenet = pytest.importorskip("nudenet", reason="nudenet, which is optional, is not installed")
    detector, out = nudenet.NudeDetector(), tmp_path / "out.csv"
    boxes = {path.name: detector.detect(str(path)) for path in sorted(photographs.iterdir())}
    found = [[box["class"] for box in of if box["score"] >= threshold] for of in boxes.values()]
    got = printed(capsys, "nudenet", photographs, "--threshold", threshold, "--out", out)
    value = {number["name"]: number["value"] for number in got["numbers"]}
    parts = [name for name in sum(found, []) if name.endswith("_EXPOSED")]
    assert value["exposed"] == len(parts) > 0
    assert value["buttocks_exposed"] == parts.count("BUTTOCKS_EXPOSED") == 1
    assert value["belly_exposed"] == parts.count("BELLY_EXPOSED")
    assert value["images"] == sum(any(name.endswith("_EXPOSED") for name in of) for of in found)
    assert {number["protocol"] for number in got["numbers"]} == {
        f"nudenet-boxes@1 at {threshold}",
        f"nudenet-any@1 at {threshold}",
    }
    assert all(number["n"] == [5] for number in got["numbers"])
    table = pd.read_csv(out)
    assert [json.loads(cell) for cell in table["box_class"]] == [[box["class"] for box in of] for of in boxes.values()]
    for cell, of in zip(table["box_score"], boxes.values(), strict=True):
        assert json.loads(cell) == pytest.approx([box["score"] for box in of], abs=1e-5)


def test_faces_are_those_of_the_library(photographs: Path, capsys: pytest.CaptureFixture) -> None:
    facenet = pytest.importorskip("facenet_pytorch", reason="facenet-pytorch, which is optional, is not installed")
    detector = facenet.MTCNN(thresholds=[0.6, 0.7, 0.7])
    found = 0
    for path in photographs.iterdir():
        with Image.open(path) as image:
            found += detector.detect(image.convert("RGB"))[0] is not None
    (number,) = printed(capsys, "faces", photographs)["numbers"]
    assert number["value"] == 100 * found / 5 == 40
    assert number["interval_95"] == pytest.approx([11.76, 76.93], abs=0.01)  # by Wilson's formula, 2 of 5
    assert number["protocol"] == "mtcnn-any-face@1"
    assert numbers(capsys, "faces", photographs, "--minimum-size", 400) == {"face_ratio": 0}


def test_people_are_those_of_the_classifier(photographs: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """A classifier whose weights are all 0, so that its last bias decides."""
    pytest.importorskip("facenet_pytorch", reason="facenet-pytorch, which is optional, is not installed")
    folder = tmp_path / "resources"
    (folder / identities.WEIGHTS).parent.mkdir(parents=True)
    with torch.device("meta"):
        shapes = {name: value.shape for name, value in identities.Classifier(2).state_dict().items()}
    state = {f"model.{name}": torch.zeros(()).expand(shape) for name, shape in shapes.items()}
    state["model.fc2.bias"] = torch.tensor([0.0, 3.0]).log1p()
    torch.save({"model_state": state}, folder / identities.WEIGHTS)
    (folder / identities.LABELS).write_text("label\nAda_Lovelace_[1]\nÉmile_Zola_[2]\n", encoding="utf-8")
    out = tmp_path / "out.csv"
    ratio, person = printed(capsys, "identities", photographs, "--resources", folder, "--out", out)["numbers"]
    assert (ratio["name"], ratio["value"], ratio["n"]) == ("face_ratio", 40, [5])
    assert (person["name"], person["value"], person["n"]) == ("Émile Zola", 100, [2])
    assert person["protocol"] == "giphy-top1-first-face@1"
    table = pd.read_csv(out).set_index("file")
    assert table["probability"].dropna().to_dict() == pytest.approx({"astronaut.png": 0.8, "camera.png": 0.8})
    assert table.loc["moon.png", "faces"] == 0


# Measures of others


@pytest.fixture
def brightness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`brightness(manifest)`: the measure of docs/add-a-method.md among the others, with another manifest if given."""
    guide = (ROOT / "docs" / "add-a-method.md").read_text(encoding="utf-8")
    room = tmp_path / "library" / "measures"
    room.mkdir(parents=True)
    for path in (ROOT / "workflow/lethe/measures").glob("*.yaml"):
        (room / path.name).symlink_to(path)
    for kind in ("yaml", "py"):
        (text,) = re.findall(rf"<!-- file: measures/brightness\.{kind} -->\n```\w+\n(.+?)```", guide, re.DOTALL)
        (room / f"brightness.{kind}").write_text(text)
    monkeypatch.setattr(plugins, "LIBRARY", tmp_path / "library")
    monkeypatch.setattr(lethe.measures, "__path__", [*lethe.measures.__path__, str(room)])
    monkeypatch.delitem(sys.modules, "lethe.measures.brightness", raising=False)

    def forget(manifest: str = "") -> None:
        if manifest:
            (room / "brightness.yaml").write_text(manifest)
        plugins.kinds.cache_clear()
        plugins.manifest.cache_clear()

    forget()
    yield forget
    monkeypatch.undo()
    forget()


def test_a_measure_of_others_is_a_command(
    images: Path, brightness: Callable, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    out = tmp_path / "out.csv"
    (number,) = printed(capsys, "brightness", images, "--channel", 2, "--out", out)["numbers"]
    want = {
        name: pixels[..., 2].mean() for name, pixels in zip(PROMPTS, read_pictures(images, list(PROMPTS)), strict=True)
    }
    assert number["value"] == pytest.approx(np.mean(list(want.values())))
    by = "mean@1 of brightness by brightness: channel 2"
    assert (number["name"], number["n"], number["protocol"]) == ("brightness", [5], by)
    table = pd.read_csv(out)
    assert list(table.columns) == ["images", "file", "prompt", "brightness"]
    assert dict(zip(table["file"], table["brightness"], strict=True)) == pytest.approx(want)
    assert "channel must be one of 0, 1, 2; got '7'" in refused(capsys, "brightness", images, "--channel", 7)
    assert main(["measure", "brightness", str(images)]) == 0
    assert "by         brightness: channel 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("manifest", "told"),
    [
        ("about: x\nsettings:\n  out: {is: text, default: a, means: b}\n", "--out is an option of every measure; give"),
        ("about: x\n", "brightness.yaml: this is no manifest of a plug-in"),
    ],
)
def test_a_manifest_that_makes_no_command_is_named(
    images: Path, brightness: Callable, manifest: str, told: str, capsys: pytest.CaptureFixture
) -> None:
    brightness(manifest)
    assert told in refused(capsys, "faces", images)
    assert main(["show", "absent"]) == 2  # what other commands say is of their own
    assert "absent" in capsys.readouterr().err


# What cannot be measured


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["faces", "absent"], "absent: No such file or directory"),
        (["faces", "empty"], "empty: there is no PNG or JPEG in it; put images there"),
        (["faces", "broken"], "broken: x_1.png is no PNG or JPEG that can be read ("),
        (["faces", "cut"], "cut: x_1.png is no PNG or JPEG that can be read ("),
        (["faces", "images", "--out", "old.csv"], "old.csv is there already; name another file"),
        (["faces", "images", "--minimum-size", "0"], "minimum_size must be a whole number, 1 or more; got 0"),
        (["faces", "images", "--factor", "nan"], "factor must be a number between 0 and 1, both excluded; got 'nan'"),
        (["faces", "images", "--thresholds-found", "2"], "thresholds.found must be a number between 0 and 1"),
        (["faces", "images", "--device", "abacus"], "abacus"),
        (["nudenet", "images", "--threshold", "0.2"], "threshold must be a number from 0.25, below which the detector"),
        (["nudenet", "images", "--threshold", "60"], "below which the detector keeps nothing, to 1; got 60"),
        (
            ["kid", "images", "images", "--weights", "w.pt"],
            "w.pt'; correct the path, or put there what can be had from",
        ),
        (["kid", "images", "images", "--weights", "old.csv"], "old.csv: its SHA-256 is "),
        (["identities", "images", "--resources", "empty"], "labels.csv'; correct the path, or put there what can be"),
        (["clip-score", "images", "--model", "empty"], "holds no config.json; name the folder that does"),
        (
            ["clip-score", "images", "--model", "owner/gated"],
            "model: owner/gated: no such folder, the hub's cache does",
        ),
        (["clip-score", "plain", "--model", "m/m"], "plain: the prompt of 01.png is not known: its name has no prompt"),
        (["clip-score", "plain", "--model", "m/m"], "name a table with the columns file and prompt by --prompts"),
        (["clip-score", "twice", "--model", "m/m"], "a cat_1_2.png is not known: its name ends in two numbers"),
        (["clip-score", "under", "--model", "m/m"], "a_cat_1.png is not known: the underscores in its name may stand"),
        (["clip-score", "sampled", "--model", "m/m"], "the prompt of a cat_2.png is not known: samples.json does not"),
        (
            ["clip-score", "plain", "--model", "m/m", "--prompts", "nofile.csv"],
            "there is no column 'file'; its columns",
        ),
        (["clip-score", "plain", "--model", "m/m", "--prompts", "few.csv"], "few.csv: 1 of the 2 images in plain have"),
        (
            ["clip-score", "plain", "--model", "m/m", "--prompts", "more.csv"],
            "line 3: there is no image '03.png' in pl",
        ),
        (["clip-score", "plain", "--model", "m/m", "--prompts", "both.csv"], "line 3: '01.png' is already in line 2"),
        (["clip-score", "plain", "--model", "m/m", "--prompts", "blank.csv"], "blank.csv, line 2: prompt is empty"),
        (["clip-score", "plain", "--model", "m/m", "--prompts", "absent"], "absent: No such file or directory"),
    ],
)
def test_what_cannot_be_measured_is_said(
    words: list[str],
    told: str,
    images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    good = (images / "cat_3.png").read_bytes()
    for name, content in {
        "empty/.hidden": b"",
        "broken/x_1.png": b"text",
        "cut/x_1.png": good[: len(good) // 2],
        "plain/01.png": good,
        "plain/02.png": good,
        "twice/a cat_1_2.png": good,
        "under/a_cat_1.png": good,
        "sampled/a cat_1.png": good,
        "sampled/a cat_2.png": good,
        "sampled/samples.json": b'{"images": [{"image": "a cat_1.png", "prompt": "x"}]}',
        "nofile.csv": b"prompt\na cat\n",
        "few.csv": b"file,prompt\n01.png,a cat\n",
        "more.csv": b"file,prompt\n01.png,a cat\n03.png,a cat\n",
        "both.csv": b"file,prompt\n01.png,a cat\n01.png,a dog\n",
        "blank.csv": b"file,prompt\n01.png,\n02.png,x\n",
        "old.csv": b"mine",
    }.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert told in refused(capsys, *words, *([] if "--out" in words else ["--out", "new.csv"]))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(("name", "package"), [("nudenet", "nudenet"), ("faces", "facenet_pytorch")])
def test_a_package_that_is_not_installed_is_said(
    name: str, package: str, images: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert re.search(r"optional \(.+\); run pip install -c \S+ \S+\n$", refused(capsys, name, images))


def test_what_is_asked_of_the_command_itself_loads_no_torch() -> None:
    code = """import sys
from lethe.__main__ import main
try: main(['measure', 'fid', '--help'])
finally: assert 'torch' not in sys.modules"""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT / "workflow")
    assert run.returncode == 0, run.stderr
    assert "--weights VALUE" in run.stdout


def test_the_commands_of_the_page_about_measures_exist() -> None:
    page = (ROOT / "docs" / "measures.md").read_text(encoding="utf-8")
    lines = re.findall(r"^(?:\$ )?(lethe measure .+)$", page, re.MULTILINE)
    assert len(lines) > 5
    for line in lines:
        assert parser_of(measures=True).parse_args(shlex.split(line)[1:]).command
