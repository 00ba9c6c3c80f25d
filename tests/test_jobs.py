"""Jobs as they are declared: files by wildcards, what is read, the command, and the digest that decides on a rerun."""

from __future__ import annotations

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lethe.jobs import BoundStep, Folder, Given, Job, Made, Step, Told, encode_argument, spelled, step, without_places

SETTINGS = {"seed": 1, "base": {"name": "sd", "model": "here", "revision": None, "fingerprint": "abc"}}


class Drawing:
    """A plan of two rules: pictures by base and concept, and a sheet of some of a base's pictures."""

    def __init__(self, *, concepts: Sequence[str] = ("ship", "cat"), plugins: Sequence[str] = (), **told: Any) -> None:
        self.concepts, self.plugins, self.told = concepts, plugins, told
        self.declared: list[tuple[str, ...]] = []

    @step(picture="results/{base}/{concept}.png")
    def images(self, base: str, concept: str) -> Told:
        self.declared.append((base, concept))
        told = dict(settings=SETTINGS, reads=dict(words=Given("my words.txt", ["a", "b"])), aside=dict(where="here"))
        return Told(**told | self.told, plugins=self.plugins)

    @step("lethe.steps.losses", sheet="results/{base}/sheet.png", parts=Folder("results/{base}/parts"))
    def sheets(self, base: str) -> Told:
        pictures = [self.images(base, concept) for concept in self.concepts]
        return Told(reads=dict(pictures=pictures, first=pictures[0], named=pictures[0]["picture"], none=None))

    @step(file="results/all.txt")
    def moments(self) -> Told:
        return Told(reads=dict(sheets=[self.sheets("sd")["sheet"], Given("x", "y")]))


def test_a_rule_is_known_by_its_declaration() -> None:
    declared = Drawing.images
    assert isinstance(declared, Step)
    assert (declared.name, declared.module) == ("images", "lethe.steps.images")
    assert declared.wildcards == ("base", "concept")
    assert declared.patterns == {"picture": "results/{base}/{concept}.png"}
    assert declared.log == "logs/images/{base}/{concept}.log"
    assert Drawing.moments.log == "logs/moments.log"
    assert Drawing.sheets.module == "lethe.steps.losses"
    assert Drawing.sheets.patterns == {"sheet": "results/{base}/sheet.png", "parts": "results/{base}/parts"}
    assert Drawing.sheets.writes["parts"] == Folder("results/{base}/parts")


def test_a_job_has_the_files_of_its_wildcards() -> None:
    plan = Drawing()
    job = plan.images("sd", "a cat")
    assert job.step is Drawing.images
    assert job.outputs == {"picture": "results/sd/a cat.png"}
    assert job["picture"] == Made(job, "picture")
    assert job["picture"].path == "results/sd/a cat.png"
    assert job.reads == {"words": [Given("my words.txt", ["a", "b"])]}
    assert plan.moments().outputs == {"file": "results/all.txt"}
    with pytest.raises(ValueError, match="shorter"):
        Job(Drawing.images, ["sd"], Told())
    with pytest.raises(TypeError):
        plan.images("sd")


def test_a_job_is_planned_once_for_its_wildcards_in_each_plan() -> None:
    plan, other = Drawing(), Drawing()
    assert isinstance(plan.images, BoundStep)
    assert plan.images is plan.images
    assert plan.images("sd", "ship") is plan.images("sd", "ship")
    assert plan.images("sd", "ship") is not plan.images("sd", "cat")
    assert plan.declared == [("sd", "ship"), ("sd", "cat")]
    assert plan.images is not other.images
    assert plan.images("sd", "ship") is not other.images("sd", "ship")


def test_what_is_read_is_a_list_of_files_in_order_whatever_its_form() -> None:
    plan = Drawing(concepts=["ship", "cat", "bird"])
    sheet = plan.sheets("sd")
    ship, cat, bird = (plan.images("sd", concept)["picture"] for concept in ("ship", "cat", "bird"))
    assert sheet.reads == {"pictures": [ship, cat, bird], "first": [ship], "named": [ship], "none": []}
    assert plan.moments().reads == {"sheets": [sheet["sheet"], Given("x", "y")]}


def test_a_job_of_several_outputs_is_read_by_the_name_of_one() -> None:
    plan = Drawing()
    with pytest.raises(ValueError, match="too many values"):
        Job(Drawing.moments, [], Told(reads=dict(sheet=plan.sheets("sd"))))


# Commands


def test_a_command_holds_module_settings_files_and_outputs() -> None:
    plan = Drawing(plugins=["lethe.methods.mace.join"])
    job, sheet = plan.images("sd", "a cat"), plan.sheets("sd")
    assert shlex.split(job.command) == [
        *("python", "-m", "lethe.frame.start", "lethe.steps.images", "lethe.methods.mace.join"),
        *("--settings", encode_argument(SETTINGS | {"where": "here", "made_by": job.digest})),
        *("--read", "words", "my words.txt"),
        *("--out", "picture", "results/sd/a cat.png"),
    ]
    assert shlex.split(sheet.command)[6:] == [
        *("--read", "pictures", "results/sd/ship.png", "results/sd/cat.png"),
        *("--read", "first", "results/sd/ship.png", "--read", "named", "results/sd/ship.png", "--read", "none"),
        *("--out", "sheet", "results/sd/sheet.png", "--out", "parts", "results/sd/parts"),
    ]


# Digests


def digest(**told: Any) -> str:
    return Drawing(**told).images("sd", "ship").digest


def test_equal_declarations_give_equal_digests_and_commands() -> None:
    assert re.fullmatch("[0-9a-f]{64}", digest())
    for rule, wildcards in (("images", ("sd", "ship")), ("sheets", ("sd",)), ("moments", ())):
        one, other = (getattr(plan, rule)(*wildcards) for plan in (Drawing(), Drawing()))
        assert (one.digest, one.command) == (other.digest, other.command)


def test_the_order_of_keys_decides_nothing() -> None:
    backwards = {"base": dict(reversed(SETTINGS["base"].items())), "seed": 1}
    assert list(backwards) != list(SETTINGS)
    assert digest(settings=backwards) == digest()
    files = {"a": Given("x", "1"), "b": Given("y", "2")}
    assert digest(reads=files) == digest(reads=dict(reversed(files.items())))


def test_what_stands_aside_decides_nothing_and_is_told() -> None:
    plan = Drawing(aside={"where": "there", "column": 3})
    job = plan.images("sd", "ship")
    assert job.digest == digest()
    assert '"column":3' in job.command
    assert '"where":"there"' in job.command


@pytest.mark.parametrize(
    "told",
    [
        {"settings": SETTINGS | {"seed": 2}},
        {"settings": SETTINGS | {"seed": "1"}},
        {"settings": SETTINGS | {"more": None}},
        {"settings": SETTINGS | {"base": SETTINGS["base"] | {"fingerprint": "abd"}}},
        {"settings": SETTINGS | {"base": SETTINGS["base"] | {"name": "sd2"}}},
        {"reads": {"words": Given("my words.txt", ["a"])}},
        {"reads": {"words": Given("my words.txt", ["b", "a"])}},
        {"reads": {"others": Given("my words.txt", ["a", "b"])}},
        {"reads": {}},
        {"plugins": ["lethe.methods.mace.join"]},
    ],
)
def test_settings_contents_names_and_plugins_decide(told: dict) -> None:
    assert digest(**told) != digest()


def test_where_a_file_or_a_model_is_decides_nothing() -> None:
    assert digest(reads={"words": Given("elsewhere.txt", ["a", "b"])}) == digest()
    moved = SETTINGS["base"] | {"model": "there", "revision": "r", "variant": "fp16"}
    assert digest(settings=SETTINGS | {"base": moved}) == digest()


def test_the_code_of_a_step_and_of_its_plugins_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lethe.jobs.code_hash", lambda *modules: f"code of {modules}")
    first, plugged = digest(), digest(plugins=["lethe.methods.mace.join"])
    monkeypatch.setattr("lethe.jobs.code_hash", lambda *modules: f"other code of {modules[0]}, {modules[1:]}")
    assert len({first, plugged, digest(), digest(plugins=["lethe.methods.mace.join"])}) == 4


def test_a_digest_holds_those_of_all_that_lies_behind() -> None:
    before, after = Drawing(), Drawing(settings=SETTINGS | {"seed": 2})
    for rule, wildcards in (("images", ("sd", "ship")), ("sheets", ("sd",)), ("moments", ())):
        assert getattr(before, rule)(*wildcards).digest != getattr(after, rule)(*wildcards).digest


def test_the_order_and_number_of_files_of_a_name_decide() -> None:
    orders = [("ship", "cat"), ("cat", "ship"), ("ship",), ("ship", "cat", "ship")]
    files = {name: Given(f"{name}.txt", name) for name in ("ship", "cat")}
    assert len({digest(reads={"words": [files[name] for name in order]}) for order in orders}) == 4


def test_which_output_of_a_job_is_read_decides() -> None:
    plan = Drawing()
    sheet, parts = (digest(reads={"words": plan.sheets("sd")[output]}) for output in ("sheet", "parts"))
    assert sheet != parts


# Places


@pytest.mark.parametrize(
    ("told", "kept"),
    [
        ({"model": "a", "revision": "b", "variant": None, "fingerprint": "c"}, {"fingerprint": "c"}),
        ({"model": "a", "revision": "b"}, {"model": "a", "revision": "b"}),  # nothing else says what it is
        ({"x": {"model": "a", "fingerprint": "c", "name": "n"}}, {"x": {"fingerprint": "c", "name": "n"}}),
        ([{"model": "a", "fingerprint": "c"}, 1], [{"fingerprint": "c"}, 1]),
        (({"model": "a", "fingerprint": "c"},), [{"fingerprint": "c"}]),
        ({"fingerprint": "c", "x": {"model": "a"}}, {"fingerprint": "c", "x": {"model": "a"}}),
        ("model", "model"),
    ],
)
def test_places_are_left_out_where_a_fingerprint_tells_more(told: object, kept: object) -> None:
    before = copy.deepcopy(told)
    assert without_places(told) == kept
    assert told == before


@pytest.mark.parametrize(
    ("path", "kept"),
    [
        ("a/b.txt", "a/b.txt"),
        ("./a/b.txt", "a/b.txt"),
        ("a/./b//c/", "a/b/c"),
        ("{here}/a/b.txt", "a/b.txt"),
        ("{here}", "."),
        ("a/../b.txt", "a/../b.txt"),  # a may be a link
        ("../b.txt", "../b.txt"),
        ("{here}s/b.txt", "{here}s/b.txt"),
        ("/data//b.txt", "/data/b.txt"),
    ],
)
def test_a_path_has_one_spelling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, kept: str) -> None:
    monkeypatch.chdir(tmp_path)
    path, kept = path.format(here=tmp_path), kept.format(here=tmp_path)
    assert spelled(path) == kept
    assert Given(path, "x") == Given(kept, "x")
    assert spelled(kept) == kept


# Settings as an argument

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(derandomize=True, deadline=None)
@given(json_values)
@example({"b": "q\"u\\o/t'e\n\x00\x7f", "a": ["🚢", "\\u0041", "$(rm -rf ~)", "`x`; <y> | & * ? ! % #"]})
def test_encode_argument_round_trips_in_plain_characters(value: object) -> None:
    text = encode_argument(value)
    assert json.loads(text) == value
    assert re.fullmatch(r'(\\u[0-9a-f]{4}|[A-Za-z0-9 _.,:{}\[\]"+-])*', text, re.ASCII)
    assert text == encode_argument(json.loads(text))


def test_encode_argument_is_sorted_compact_and_survives_a_shell() -> None:
    value = {"b": 1, "a": ["$(rm -rf ~)", 'it\'s \\ "x"']}
    text = encode_argument(value)
    assert text.startswith('{"a":["\\u0024\\u0028rm -rf \\u007e\\u0029",')
    assert text.endswith('],"b":1}')
    echoed = subprocess.run(["sh", "-c", f"printf %s {shlex.quote(text)}"], capture_output=True, text=True, check=True)
    assert json.loads(echoed.stdout) == value


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": {1, 2}}])
def test_encode_argument_refuses_what_json_cannot_hold(value: object) -> None:
    with pytest.raises((ValueError, TypeError)):
        encode_argument(value)
