"""The configuration's check: what passes, and that every fault is named with its place and a mend."""

from __future__ import annotations

import copy
import json
import pickle
import re
import shutil
from pathlib import Path

import jsonschema
import pytest
import yaml
from snakemake.common.configfile import load_configfile
from snakemake.utils import update_config

from bad_input import PICKLE, ROWS, SUITE, UNET, Act, Case, Place, Prepare, each_of, refusals, started_with
from conftest import model_stand_ins
from lethe.__main__ import main
from lethe.config.checks import check_config
from lethe.config.keys import tables_of_keys
from lethe.config.resolve import mask_settings, read_overrides
from lethe.config.schema import frame, merged, method_of, schema_of, with_defaults
from lethe.messages import ConfigError, nearest
from lethe.plugins import ROOMS, kinds, manifest
from running import ROOT

SOURCE = "config/config.yaml"


@pytest.fixture
def config(tmp_path, monkeypatch):
    """The shipped configuration with its defaults, in a working directory that holds stand-ins for all it names."""
    files = {
        "resources/emoji/objects.tsv": "object\ticon\nship\tship\n",
        "resources/emoji/reference/captions.csv": "row,type,prompt,evaluation_seed\n",
        "resources/emoji/reference/images.zip": "",
        "resources/emoji/reference/objects_keep.tsv": "name\ncat\n",
        **model_stand_ins(),
        **{f"resources/templates/{kind}.txt": "{}\n" for kind in ("object", "person", "style", "explicit")},
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "config").mkdir()
    for name in ("config.yaml", "concepts.tsv"):
        shutil.copy(ROOT / "config" / name, tmp_path / "config" / name)
    monkeypatch.chdir(tmp_path)
    return with_defaults(yaml.safe_load(Path("config/config.yaml").read_text()))


def problems_of(config) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        check_config(config, source=SOURCE)
    assert str(caught.value).splitlines() == list(caught.value.args)
    return list(caught.value.args)


def put(config: dict, place: str, value) -> None:
    """Set the value at a dotted place; DROP removes it."""
    *parents, last = place.split(".")
    for key in parents:
        config = config[key]
    if value is DROP:
        del config[last]
    else:
        config[last] = value


DROP = object()


def test_the_shipped_configuration_passes(config):
    before = copy.deepcopy(config)
    check_config(config, source=SOURCE)
    assert config == before


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("methods.mace.prior", None),
        ("methods.mace.lamb", 0),
        ("methods.mace.domain_prior", "captions"),
        ("methods.mace.scale_convention", "published-code"),
        ("methods.mace.lora.learning_rate", 1),
        ("bases.emoji.model", "CompVis/stable-diffusion-v1-4"),
        ("bases.emoji.model", "./resources/emoji/pipeline"),
        ("bases.emoji.revision", "133a221b8aa7292a167afc5127cb63fb5005638b"),
        ("measures.judge.model", "openai/clip-vit-base-patch32"),
        ("tasks.objects.concepts", ["bird"]),
        ("suites.objects.seeds", [5, 5]),
        ("evaluations.objects.generality", None),
        ("evaluations.objects.reference_images", "resources"),
        ("figures.examples", None),
        ("suites.reference.columns", {}),
        ("suites.reference.columns", {"type": None}),
        ("suites.reference.columns", {"type": "prompt", "guidance": "evaluation_seed", "width": "row"}),
        ("suites.mine", {"file": "resources/seeds.csv", "columns": {"prompt": "text", "evaluation_seed": "sd_seed"}}),
        ("suites.mine", {"file": "resources/seeds.tsv", "columns": {"prompt": "text", "evaluation_seed": "sd_seed"}}),
        ("priors.mine", {"file": "resources/brackets.txt"}),
        ("suites.mine", {"file": "resources/emoji/reference/captions.csv"}),
        ("priors.mine", {"file": "resources/templates/object.txt"}),
        ("priors.mine", {"file": "config/concepts.tsv", "column": "concept", "templates": ["a {}", "{} at sea"]}),
        (
            "priors.mine",
            {"file": "config/concepts.tsv", "column": "concept", "templates": "resources/templates/object.txt"},
        ),
        ("priors.coco", {"coco": ["config/concepts.tsv"]}),
        ("downloads.coco_annotations.sha256", None),
        ("suites.objects.prompt", "{braces} around {}"),
        ("figures.examples.kept", 0),
        ("masks.prompts.person", "a person. a face"),
        ("masks.prompts.object", "a {} in the sea"),
        ("masks.when_nothing_found", "error"),
        ("masks.grounded-sam.detector.model", "./absent"),  # clipseg is chosen
    ],
)
def test_what_is_allowed(config, place, value):
    Path("resources/seeds.csv").write_text("text,sd_seed\na,1\n")
    Path("resources/seeds.tsv").write_text("text\tsd_seed\na, b\t1\n")
    Path("resources/brackets.txt").write_text("[a photo] of a ship\n{} at sea\n")
    put(config, place, value)
    check_config(config, source=SOURCE)


@pytest.mark.parametrize(
    ("evaluation", "told"),
    [
        ({"fid": "inception", "reference_images": None}, "fid needs reference_images beside it; name what is missing"),
        ({"fid": "inception", "quality": None, "reference_images": None}, "fid needs quality and reference_images bes"),
        (
            {"kind": "explicit", "nudenet": "nudenet", "explicit": "objects", "quality": "reference"},
            "quality needs clip",
        ),
    ],
)
def test_what_a_setting_of_an_evaluation_needs_is_there(config: dict, evaluation: dict, told: str) -> None:
    config["measures"] |= {"inception": {}, "nudenet": {}}
    before = {} if "kind" in evaluation else config["evaluations"]["objects"]
    config["evaluations"]["objects"] = before | evaluation
    with pytest.raises(ConfigError) as caught:
        check_config(config, source=SOURCE)
    (line,) = caught.value.args
    assert line.startswith(f"{SOURCE}: evaluations.objects.{told}")


def test_the_first_concepts_of_the_table_can_be_asked_for_by_number(config: dict) -> None:
    put(config, "tasks.objects.concepts", {"first": 2})
    whole = check_config(config, source=SOURCE)
    assert whole["tasks"]["objects"]["concepts"] == ["ship", "automobile"]
    assert config["tasks"]["objects"]["concepts"] == {"first": 2}


def test_a_task_may_not_be_called_as_the_mean_over_tasks(config: dict) -> None:
    config["tasks"]["average"] = config["tasks"]["objects"]
    config["tables"] = {"all": {"tasks": ["objects", "average"], "average": True}}
    with pytest.raises(ConfigError, match="tables.all.average: a task is called average, as the row of the mean"):
        check_config(config, source=SOURCE)


def test_styles_may_be_measured_with_and_without_classes(config: dict) -> None:
    """A group of settings that is null, or left out, or whole."""
    chosen = {"kind": "styles", "clip": "judge", "erased": "objects", "kept": "objects"}
    table = {"table": "resources/emoji/objects.tsv", "column": "object"}
    for given, classes in (({}, None), ({"classes": None}, None), ({"classes": table}, table)):
        config["evaluations"]["objects"] = chosen | given
        assert check_config(config, source=SOURCE)["evaluations"]["objects"]["classes"] == classes
    for classes, told in (
        ({"table": table["table"]}, "classes lacks the key column"),
        (3, "must be keys and values, or"),
    ):
        config["evaluations"]["objects"] = chosen | {"classes": classes}
        with pytest.raises(ConfigError, match=told):
            check_config(config, source=SOURCE)


def test_the_first_concepts_of_a_kind_can_be_asked_for(config: dict) -> None:
    put(config, "tasks.objects.concepts", {"first": 1, "kind": "style"})
    assert check_config(config, source=SOURCE)["tasks"]["objects"]["concepts"] == ["Twemoji"]
    put(config, "tasks.objects.concepts", {"first": 4, "kind": "object"})
    with pytest.raises(ConfigError, match="must be at most 3, the concepts of this kind of config/concepts.tsv; got 4"):
        check_config(config, source=SOURCE)


@pytest.mark.parametrize(
    ("place", "value", "words"),
    [
        ("sed", 1, ["sed is not a known key", "did you mean seed?", "Known keys: device, offload, warm, prec"]),
        (
            "methods.mace.lora.lr",
            1,
            ["methods.mace.lora.lr is not a known key", "Known keys: form, rank, steps, learning_rate"],
        ),
        ("bases.emoji.x y", 1, ["bases.emoji.'x y' is not a known key"]),
        ("tasks", DROP, ["the configuration lacks the key tasks", "add it: What to erase, by name"]),
        ("concepts", DROP, ["the configuration lacks the key concepts", "add it: The concept table"]),
        (
            "evaluations.objects.clip",
            DROP,
            ["evaluations.objects lacks the key clip", "add it: The CLIP that measures."],
        ),
        ("mace", {"lamb": 1.0}, ["mace: methods have entries of their own now; write methods: {mace: {...}}"]),
        ("methods.mace.templates_used", 4, ["methods.mace.templates_used: this is templates.used now"]),
        (
            "evaluations.objects.clip",
            {"model": "resources/emoji/clip", "revision": None},
            ["evaluations.objects.clip names an entry of measures now; write measures: {judge: {kind: clip, model: "],
        ),
        (
            "measures.inception",
            {"weights": "resources/inception.pt"},
            [
                "measures.inception.weights: there is no file '/",
                "/resources/inception.pt'; correct the path, or put there "
                "what can be had from https://nvlabs-fi-cdn.nvidia.com/",
            ],
        ),
        (
            "measures.identities",
            {"resources": "resources/emoji"},
            [
                "measures.identities.resources: there is no file '/",
                "/resources/emoji/face_recognition/labels.csv'; correct the path, or put there what can be had from",
            ],
        ),
        ("measures.inception", {"sha256": "f5"}, ["measures.inception.sha256 must be 64 hexadecimal digits in lower"]),
        (
            "evaluations.objects.fid",
            "judge",
            ["evaluations.objects.fid must be of the kind inception, and measures.judge is of the kind clip"],
        ),
        ("evaluations.objects.clip", "jugde", ["clip: measures has no entry 'jugde'; did you mean judge?"]),
        (
            "measures.judge.kind",
            "clipp",
            ["measures.judge: its kind must be one of classifier, clip", "got 'clipp'; did you mean"],
        ),
        ("measures.other", {"model": "x"}, ["measures.other: its kind must be one of", "'other' is none itself"]),
        ("methods.maec", {}, ["methods.maec: its kind must be one of ", "did you mean mace?"]),
        ("methods.mace-naive", {"kind": "mace", "fusoin": "sum"}, ["methods.mace-naive.fusoin is not", "mean fusion?"]),
        ("methods.mace.fusion", "mean", ["methods.mace.fusion must be one of closed-form, sum, none; got 'mean'"]),
        ("methods.loras", {"kind": "mace"}, ["methods.loras needs another name"]),
        ("tasks.objects.mace", {"lamp": 1}, ["tasks.objects.mace.lamp is not a known key; did you mean lamb?"]),
        (
            "tasks.objects.esd",
            {"steps": 1},
            ["tasks.objects.esd: the task's methods lack esd; name it there, or leave"],
        ),
        ("tasks.objects.esf", {"steps": 1}, ["tasks.objects.esf is not a known key"]),
        (
            "tasks.objects.methods",
            ["mace", "uce-debias"],
            ["tasks.objects.methods[1]: uce-debias has no default for attributes, judge; write methods: {uce-debias: "],
        ),
        (
            "methods.uce-debias",
            {"attributes": ["cat"], "judge": {"model": "resources/emoji/clip"}},
            ["methods.uce-debias.attributes must be a list of at least two texts, each named once; got ['cat']"],
        ),
        (
            "methods.uce-debias",
            {"attributes": ["cat", "dog"], "judge": {"model": "resources/emoji/clipseg"}},
            ["methods.uce-debias.judge.model: ", "CLIPModel is wanted here"],
        ),
        ("methods.uce-debias", {"attributes": ["cat", "dog"]}, ["methods.uce-debias lacks the key judge; add it"]),
        ("tasks.objects.suites", ["x"], ["tasks.objects.suites[0]: suites has no entry 'x'"]),
        ("tables.both", {"tasks": ["objects", "x"]}, ["tables.both.tasks[1]: tasks has no entry 'x'"]),
        ("tables.both", {"tasks": []}, ["tables.both.tasks must be a list of at least one task"]),
        ("masks.clipseg.model", None, ["masks.clipseg lacks the key model; add it"]),
        (
            "device",
            "gpu",
            ["device must be auto, cpu, mps, cuda or a GPU", "got 'gpu'", "did you mean cuda?"],
        ),
        ("device", "metal", ["device must be auto", "did you mean mps?"]),
        ("offload", "yes", ["offload must be true or false", "got 'yes'"]),
        ("precision", "FLOAT32", ["precision must be one of", "did you mean float32?"]),
        ("images.scheduler", "ddpm", ["images.scheduler must be one of dpm-solver++, ddim", "got 'ddpm'"]),
        (
            "tasks.objects.methods",
            ["maze"],
            ["tasks.objects.methods[0]: methods has no entry 'maze'; did you mean mace?"],
        ),
        ("tasks.objects.methods", [], ["tasks.objects.methods must be a list of at least one method"]),
        ("tasks.objects.concepts", "ship", ["tasks.objects.concepts must be a list", "got 'ship'", "in brackets"]),
        ("tasks.objects.concepts", ["ship"] * 2, ["tasks.objects.concepts must be", "each named once"]),
        ("tasks.objects.concepts", ["ship", None], ["tasks.objects.concepts[1] must be text", "got null", "quotes"]),
        ("tasks.objects.concepts", [False], ["tasks.objects.concepts[0] must be text", "got false", "in quotes"]),
        ("tasks", {}, ["tasks must be at least one task", "got {}"]),
        ("tasks", None, ["tasks must hold keys and values", "got null", "config/README.md"]),
        ("tasks.original", {}, ["tasks.original needs another name", "not 'original'"]),
        (
            "tasks",
            {"a.costs": {}},
            ["tasks.a.costs needs another name", "not ending in _by_concept, .images, .numbers or .costs"],
        ),
        ("tables", {"a.images": {"tasks": ["objects"]}}, ["tables.a.images needs another name", "not ending in"]),
        (
            "bases.provenance",
            {},
            ["bases.provenance needs another name", "not that of another folder of results", "provenance"],
        ),
        ("tasks.-x", {}, ["tasks.-x needs another name", "beginning with a letter or digit"]),
        ("suites.a/b", {"file": "x"}, ["suites.'a/b' needs another name", "it names a folder"]),
        ("suites", {".git": {"file": "x"}}, ["suites.'.git' needs another name"]),
        ("bases." + "b" * 61, {}, ["needs another name", "at most 60 characters"]),
        ("priors.x\n", {"file": "x"}, [r"priors: the key 'x\n'", "on one line"]),
        ("suites", {1: {"file": "x"}}, ["suites: the key 1 is no plain text", "put it in quotes"]),
        ("seed", -1, ["seed must be a whole number from 0 to 4294967295", "got -1"]),
        ("seed", True, ["seed must be a whole number", "got true"]),
        ("images.count", 0, ["images.count must be a whole number, 1 or more", "got 0"]),
        ("images.count", 8.0, ["images.count must be a whole number", "got 8.0"]),
        ("methods.mace.lamb", -0.5, ["methods.mace.lamb must be a number, 0 or more", "got -0.5"]),
        ("methods.mace.lamb", float("nan"), ["methods.mace.lamb must be a number, 0 or more", "got nan"]),
        (
            "methods.mace.scale_convention",
            "published",
            ["must be one of paper, published-code", "mean published-code?"],
        ),
        ("methods.mace.preserve_weight", -1, ["methods.mace.preserve_weight must be a number, 0 or more", "got -1"]),
        (
            "methods.mace.ridge",
            1,
            ["methods.mace.ridge is not a known key", "train_preserve_scale, fuse_preserve_scale, lamb"],
        ),
        ("sampling.guidance", float("inf"), ["sampling.guidance must be a number", "got inf"]),
        ("methods.mace.lora.learning_rate", 0, ["methods.mace.lora.learning_rate must be a number above 0"]),
        ("methods.mace.lora.learning_rate", "1e-5", ["got '1e-5'", "YAML takes as text", "as in 1.0e-5"]),
        ("methods.mace.lora.use_pooler", "yes", ["methods.mace.lora.use_pooler must be true or false", "got 'yes'"]),
        ("masks.segmenter", "sam", ["masks.segmenter must be one of clipseg, grounded-sam, full-frame", "got 'sam'"]),
        ("masks.threshold", 0.5, ["masks.threshold is not a known key", "Known keys: segmenter, when_nothing_found"]),
        ("masks.clipseg.threshold", 1, ["masks.clipseg.threshold must be a number between 0 and 1", "got 1"]),
        ("masks.clipseg.threshold", 0.0, ["masks.clipseg.threshold must be a number between 0 and 1", "got 0.0"]),
        ("masks.grounded-sam.box_threshold", 0, ["masks.grounded-sam.box_threshold must be a number between 0 and 1"]),
        ("masks.when_nothing_found", "skip", ["masks.when_nothing_found must be one of full-frame, error"]),
        ("masks.prompts.person", "", ["masks.prompts.person must be words to look for", "got ''"]),
        ("masks.prompts.object", "{} {}", ["masks.prompts.object must be words to look for, in which {} may stand"]),
        ("masks.prompts.style", "{}", ["masks.prompts.style is not a known key", "Known keys: object, person"]),
        ("masks.grounded-sam.sam", "x", ["masks.grounded-sam.sam must hold keys and values"]),
        ("concepts", "", ["concepts must be text, not empty"]),
        ("images.prompts.style", "a photo", ["images.prompts.style must be a prompt that holds {} exactly once"]),
        ("suites.objects.prompt", "{} and {}", ["suites.objects.prompt must be a prompt that holds {} exactly once"]),
        ("evaluations.objects.class_prompt", "{0}", ["evaluations.objects.class_prompt must be a prompt"]),
        ("images.prompts.object", "a {}\n", [r"images.prompts.object holds a line break", r"'a {}\n'", "remove it"]),
        ("suites.objects.seeds", [1], ["suites.objects.seeds must be a pair of seeds [first, last]", "got [1]"]),
        ("suites.objects.seeds", [1, 2.0], ["suites.objects.seeds[1] must be a whole number", "got 2.0"]),
        ("suites.objects.seeds", [9, 1], ["suites.objects.seeds must be [first, last] with first <= last", "swap"]),
        ("figures.examples.seeds", [2, 1], ["figures.examples.seeds must be [first, last]", "got [2, 1]", "swap"]),
        ("suites.objects.file", "x.csv", ["suites.objects must hold either file", "or table", "prompt, seeds, file"]),
        ("suites.objects.table", DROP, ["suites.objects must hold either file", "its keys: column, prompt, seeds"]),
        ("suites.objects", [], ["suites.objects must hold keys and values", "got []"]),
        ("suites.objects.rows", 3, ["suites.objects.rows is not a known key", "Known keys: table, column, words"]),
        ("suites.objects.column", DROP, ["suites.objects lacks the key column", "add it: The column"]),
        ("suites.reference.rows", 0, ["suites.reference.rows must be a whole number, 1 or more"]),
        ("tasks.objects.base", "emojy", ["tasks.objects.base: bases has no entry 'emojy'", "did you mean emoji?"]),
        ("tasks.objects.evaluation", "x", ["evaluations has no entry 'x'", "Known evaluations: objects"]),
        ("methods.mace.prior", "coco", ["methods.mace.prior: priors has no entry 'coco'", "Known priors: captions"]),
        (
            "methods.mace.domain_prior",
            "names",
            ["methods.mace.domain_prior: priors has no entry 'names'", "Known priors: captions"],
        ),
        (
            "priors.mine",
            {"file": "resources/x.csv"},
            ["priors.mine.file: 'resources/x.csv' is a table", "mine.column)."],
        ),
        ("priors.mine", {"file": "resources/x.TAB"}, ["priors.mine.file: 'resources/x.TAB' is a table, whose header"]),
        ("priors.mine", {"file": "resources/x.json"}, ["priors.mine.file: 'resources/x.json' is JSON, whose lines"]),
        (
            "priors.mine",
            {"file": "resources/list.txt"},
            ["priors.mine.file: 'resources/list.txt' is JSON", "one text a"],
        ),
        ("suites.reference.columns", {"type": "artist"}, ["suites.reference.columns.type: ", "has no column 'artist'"]),
        (
            "suites.reference.columns",
            {"seed": "x"},
            ["suites.reference.columns.seed is not a known key", "Known keys: ty"],
        ),
        ("suites.reference.columns", {"prompt": None}, ["suites.reference.columns.prompt must be text", "got null"]),
        ("suites.reference.columns", {"guidance": "g"}, ["suites.reference.columns.guidance: ", "has no column 'g'"]),
        ("suites.objects.columns", {}, ["suites.objects.columns is not a known key"]),
        (
            "suites.mine",
            {"file": "resources/x.csv"},
            ["mine.file: ", "has no column 'type'", "columns can name another."],
        ),
        (
            "suites.mine",
            {"file": "resources/x.csv", "columns": {}},
            ["suites.mine.file: ", "no column 'evaluation_seed'"],
        ),
        ("figures.examples", 3, ["figures.examples must be keys and values, or null for no figure; got 3."]),
        ("evaluations.objects.kept", None, ["evaluations.objects.kept must be text", "got null"]),
        ("evaluations.objects.erased", "objcets", ["objects.erased: suites has no", "did you mean objects?"]),
        ("evaluations.objects.generality", "x", ["evaluations.objects.generality: suites has no entry 'x'"]),
        ("evaluations.objects.kept", "x", ["evaluations.objects.kept: suites has no entry 'x'"]),
        ("evaluations.objects.quality", "x", ["evaluations.objects.quality: suites has no entry 'x'"]),
        ("tasks.objects.concepts", ["bird", "Shipp"], ["concepts[1]: config/concepts.tsv has no concept", "'ship'?"]),
        ("tasks.objects.concepts", ["$(x)"], ["has no concept '$(x)'; add a row for it."]),
        (
            "tasks.objects.concepts",
            {"first": 5},
            ["concepts.first must be at most 4, the concepts of config/conce", "5"],
        ),
        ("tasks.objects.concepts", {"first": 0}, ["tasks.objects.concepts.first must be a whole number, 1 or more"]),
        ("tasks.objects.concepts", {"frist": 2}, ["concepts.frist is not a known key", "did you mean first?"]),
        ("tasks.objects.concepts", {}, ["tasks.objects.concepts"]),
        ("concepts", "config/c.tsv", ["concepts: there is no file", "config/c.tsv'; correct the path"]),
        ("templates.style", "s.txt", ["templates.style: there is no file", "s.txt'"]),
        ("priors.captions.file", "p.csv", ["priors.captions.file: there is no file", "p.csv'"]),
        ("priors.captions.column", "promt", ["priors.captions.column: ", "has no column 'promt'", "mean prompt?"]),
        ("priors.mine", {}, ["priors.mine must hold either file (texts or names) or coco (COCO", "its keys: none"]),
        ("priors.captions.coco", ["x.json"], ["priors.captions must hold either file", "its keys: file, column, coco"]),
        ("priors.captions.colum", "x", ["priors.captions.colum is not a known key", "did you mean column?"]),
        ("priors.captions.templates", "t.txt", ["priors.captions.templates: there is no file", "t.txt'"]),
        ("priors.captions.templates", [], ["priors.captions.templates must be a template file, or a list of prompts"]),
        ("priors.captions.templates", 3, ["priors.captions.templates must be a template file", "got 3; write text"]),
        ("priors.captions.templates", ["a {}", "b"], ["priors.captions.templates[1] must be a prompt", "got 'b'"]),
        ("priors.mine", {"file": "config/concepts.tsv", "column": "x"}, ["has no column 'x'", "concept, kind, anchor"]),
        ("priors.mine", {"coco": "c.json"}, ["priors.mine.coco must be a list", "got 'c.json'", "in brackets"]),
        ("priors.mine", {"coco": []}, ["priors.mine.coco must be a list of at least one caption file"]),
        ("priors.mine", {"coco": ["a.json"]}, ["priors.mine.coco[0]: there is no file", "a.json'; correct the path"]),
        ("downloads.coco_annotations.sha256", "ABC", ["must be 64 hexadecimal digits in lower case, or null"]),
        ("suites.objects.table", "t.tsv", ["suites.objects.table: there is no file", "t.tsv'"]),
        ("suites.objects.column", "objcet", ["suites.objects.column: ", "objects.tsv' has no", "mean object?"]),
        ("suites.synonyms.type_column", "x", ["suites.synonyms.type_column: ", "has no column 'x'", "kind, anchor"]),
        ("suites.reference.file", "r.csv", ["suites.reference.file: there is no file"]),
        ("suites.reference.file", "config/concepts.tsv", ["suites.reference.file: ", "no column 'evaluation_seed'"]),
        ("suites.reference.file", "resources/latin.csv", ["is no table in UTF-8", "save it as one"]),
        ("evaluations.objects.classes.table", "t.tsv", ["evaluations.objects.classes.table: there is no file"]),
        ("evaluations.objects.classes.column", "class", ["evaluations.objects.classes.column: ", "object, icon"]),
        ("evaluations.objects.reference_images", "i.zip", ["evaluations.objects.reference_images: there is no file"]),
        ("bases.emoji.variant", "fp16", ["bases.emoji.variant: ", "holds no *.fp16.safetensors; remove the key"]),
        ("bases.emoji.variant", "fp32", ["bases.emoji.variant must be one of fp16; got 'fp32'."]),
        ("bases.emoji.model", "resources/absent", ["bases.emoji.model: there is no folder", "correct the path"]),
        ("bases.emoji.model", "./absent", ["bases.emoji.model: there is no folder"]),
        ("bases.emoji.model", "../absent", ["bases.emoji.model: there is no folder"]),
        ("bases.emoji.model", "resources/emoji/clip", ["bases.emoji.model: the folder", "no model_index.json"]),
        ("bases.emoji.model", "models/emoji/pipeline", ["bases.emoji.model: ", "no hub id (owner/name)", "no folder"]),
        ("bases.emoji.model", "owner/na..me", ["bases.emoji.model: 'owner/na..me' is no hub id"]),
        ("bases.emoji.model", "öwner/name", ["bases.emoji.model: 'öwner/name' is no hub id"]),
        ("masks.clipseg.model", "resources/emoji/pipeline", ["masks.clipseg.model: the folder", "no config.json"]),
        ("measures.judge.model", "clip", ["measures.judge.model: 'clip' is no hub id"]),
    ],
)
def test_each_fault_names_place_and_mend(config, place, value, words):
    Path("resources/latin.csv").write_bytes("prompt,caf\xe9\n".encode("latin-1"))
    for name, text in {"x.csv": "prompt,seed\na,1\n", "x.TAB": "a", "x.json": "{}", "list.txt": '["a ship"]'}.items():
        Path("resources", name).write_text(text)
    put(config, place, value)
    found = problems_of(config)
    assert all(line.startswith(f"{SOURCE}: ") and line.endswith((".", "?")) for line in found)
    assert any(all(word in line for word in words) for line in found), found


@pytest.mark.parametrize("segmenter", ["clipseg", "grounded-sam", "full-frame"])
def test_models_of_the_chosen_segmenter_alone_must_be_there(config, segmenter):
    places = {
        "masks.clipseg.model": "clipseg",
        "masks.grounded-sam.detector.model": "grounded-sam",
        "masks.grounded-sam.sam.model": "grounded-sam",
    }
    for place in places:
        put(config, place, "./absent")
    config["masks"]["segmenter"] = segmenter
    wanted = [place for place, read_by in places.items() if read_by == segmenter]
    if wanted:
        found = problems_of(config)
        assert len(found) == len(wanted)
        for line, place in zip(found, wanted, strict=True):
            assert line.startswith(f"{SOURCE}: {place}: there is no folder")
    else:
        check_config(config, source=SOURCE)


def test_a_misspelt_key_is_one_problem(config):
    task = config["tasks"]["objects"]
    task["concpets"] = task.pop("concepts")
    assert problems_of(config) == [
        f"{SOURCE}: tasks.objects.concpets is not a known key; did you mean concepts? "
        "Known keys: base, concepts, methods, evaluation, suites, mace."
    ]


@pytest.mark.parametrize("suite", ["objects", "reference"])
def test_a_suite_is_judged_as_the_form_it_has(config, suite):
    config["suites"][suite]["sheet"] = 1
    (line,) = problems_of(config)
    assert line.startswith(f"{SOURCE}: suites.{suite}.sheet is not a known key")


def test_a_byte_order_mark_is_no_part_of_a_column(config):
    Path("resources/emoji/objects.tsv").write_text("\ufeffobject\nship\n", encoding="utf-8")
    check_config(config, source=SOURCE)


def test_all_faults_come_together(config):
    for place, value in {"device": "gpu", "methods.mace.prior": "coco", "templates.style": "s.txt", "sed": 1}.items():
        put(config, place, value)
    config["suites"]["objects"]["seeds"] = [9, 1]
    config["tasks"]["objects"]["concepts"] = ["submarine"]
    found = problems_of(config)
    assert len(found) == 6
    places = (
        "device",
        "methods.mace.prior",
        "templates.style",
        "sed ",
        "suites.objects.seeds",
        "tasks.objects.concepts[0]",
    )
    for place in places:
        assert sum(line.startswith(f"{SOURCE}: {place}") for line in found) == 1, place


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, []),
        ({"prior": None, "domain_prior": None, "preserve_weight": 0.0}, ["no prior is named", "no prior has weight"]),
        ({"prior": None, "preserve_weight": 0.0}, ["no prior has weight"]),
        ({"prior": None}, []),
        ({"train_preserve_scale": 0}, ["train_preserve_scale is 0"]),
        ({"fuse_preserve_scale": 0.0}, ["fuse_preserve_scale is 0"]),
        ({"fuse_preserve_scale": 0.0, "fusion": "sum"}, []),
    ],
)
def test_without_lamb_each_step_needs_a_prior_of_some_weight(config, changes, refused):
    config["methods"]["mace"] |= {"lamb": 0} | changes
    found = problems_of(config) if refused else []
    if not refused:
        check_config(config, source=SOURCE)
    assert len(found) == len(refused)
    for line, why in zip(found, refused, strict=True):
        assert line.startswith(f"{SOURCE}: methods.mace (in task objects): lamb must be above 0 where {why}; ")


def test_faults_of_the_concept_table_come_too_under_its_own_name(config):
    Path("config/concepts.tsv").write_text("concept\tkind\tanchor\tsynonyms\nship\tobject\t\t\nx\tthing\ty\t\n")
    config["device"] = "gpu"
    found = problems_of(config)
    assert found[0].startswith(f"{SOURCE}: device")
    assert found[1].startswith("config/concepts.tsv: row 2: column anchor of 'ship' is empty")
    assert found[2].startswith("config/concepts.tsv: row 3: column kind of 'x' must be")
    assert len(found) == 3


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("seed: 1\ndevice: cpu\nseed: 2\n", "row 3: the key 'seed' is already in row 1"),
        ("a:\n  - {}\n  - {b: 1,\n     b: 2}\n", "row 4: the key 'b' is already in row 3"),
        ("1: x\n'1': y\n", "row 2: the key '1' is already in row 1"),
    ],
)
def test_a_key_given_twice_is_refused_with_both_rows(tmp_path, text, told):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        check_config({}, files=[path])
    assert f"{path}: {told}; remove one of the two." in str(caught.value)


def test_the_same_key_in_two_mappings_is_no_repetition(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("a: {x: 1}\nb: {x: 1}\nc: [{x: 1}, {x: 2}]\n")
    with pytest.raises(ConfigError) as caught:
        check_config({}, files=[path, path])
    assert "is already in row" not in str(caught.value)


@pytest.mark.parametrize("parts", [["unet"], ["text_encoder"], ["text_encoder", "unet", "vae"]])
def test_a_folder_of_half_precision_needs_its_variant(config, tmp_path, parts):
    folder = shutil.copytree("resources/emoji/pipeline", tmp_path / "half")
    config["bases"]["emoji"] = {"model": str(folder), "revision": None, "variant": "fp16"}
    (line,) = problems_of(config)
    assert (
        line == f"{SOURCE}: bases.emoji.variant: {str(folder / 'unet')!r} holds no *.fp16.safetensors; remove the key."
    )
    for part in parts:
        (path,) = (folder / part).glob("*.safetensors")
        path.rename(path.with_suffix(".fp16.safetensors"))
    check_config(config, source=SOURCE)
    del config["bases"]["emoji"]["variant"]
    (line,) = problems_of(config)
    assert line.startswith(f"{SOURCE}: bases.emoji lacks the key variant: ")
    assert line.endswith("holds only half precision; add variant: fp16.")


def changed(path: str, **values) -> None:
    """Give a JSON file other values; DROP removes a key."""
    content = json.loads(Path(path).read_text()) | values
    Path(path).write_text(json.dumps({key: value for key, value in content.items() if value is not DROP}))


EMOJI = "resources/emoji"
BASE = f"{EMOJI}/pipeline"
TEXT_ALONE = "name a base that draws from text alone"


def of_json(path: str, **values):
    return lambda: changed(path, **values)


def without(path: str):
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def scheduled(name: str, **values):
    return of_json(f"{BASE}/scheduler/scheduler_config.json", _class_name=name, **values)


def index(**values):
    return of_json(f"{BASE}/model_index.json", **values)


@pytest.mark.parametrize(
    ("spoil", "place", "words"),
    [
        *(
            (index(_class_name=name), "bases.emoji.model", ("model_index.json names the pipeline", name, "text alone"))
            for name in (
                "StableDiffusionInpaintPipeline",
                "StableDiffusionImg2ImgPipeline",
                "StableDiffusionInstructPix2PixPipeline",
                "StableDiffusionXLImg2ImgPipeline",
                "LatentConsistencyModelPipeline",
                "StableDiffusion3Pipeline",
                "FluxPipeline",
                "DDIMPipeline",
            )
        ),
        (index(_class_name=DROP), "bases.emoji.model", ("names the pipeline None",)),
        (index(text_encoder=["transformers", "T5EncoderModel"]), "bases.emoji.model", ("reads text with T5",)),
        (index(unet=DROP), "bases.emoji.model", ("lists no unet", "name a whole pipeline")),
        (index(prior=["diffusers", "PriorTransformer"]), "bases.emoji.model", ("lists a part 'prior'", "take it out")),
        (
            index(vae=["diffusers", "AutoencoderTiny"]),
            "bases.emoji.model",
            ("its vae is of the class AutoencoderTiny",),
        ),
        (
            of_json(f"{BASE}/vae/config.json", _class_name="AutoencoderTiny"),
            "bases.emoji.model",
            ("its vae is of the class AutoencoderTiny", "must be AutoencoderKL"),
        ),
        (of_json(f"{BASE}/unet/config.json", in_channels=9), "bases.emoji.model", ("has 9 in_channels", TEXT_ALONE)),
        (of_json(f"{BASE}/unet/config.json", out_channels=8), "bases.emoji.model", ("has 8 out_channels", TEXT_ALONE)),
        (of_json(f"{BASE}/vae/config.json", latent_channels=16), "bases.emoji.model", ("latents have 16",)),
        (
            of_json(f"{BASE}/unet/config.json", time_cond_proj_dim=256),
            "bases.emoji.model",
            ("reads the scale of guidance", "time_cond_proj_dim is 256"),
        ),
        (of_json(f"{BASE}/unet/config.json", num_class_embeds=1000), "bases.emoji.model", ("upscalers", TEXT_ALONE)),
        (
            of_json(f"{BASE}/unet/config.json", cross_attention_dim=768),
            "bases.emoji.model",
            ("reads text states 768 wide and its text encoders make 384", "of two bases"),
        ),
        (
            of_json(f"{BASE}/unet/config.json", addition_embed_type="text_time"),
            "bases.emoji.model",
            ("of two families (addition_embed_type)",),
        ),
        (of_json(f"{BASE}/vae/config.json", latents_mean=[0.0] * 4), "bases.emoji.model", ("shifts latents",)),
        (
            of_json(f"{BASE}/text_encoder/config.json", model_type="t5"),
            "bases.emoji.model",
            ("its text_encoder is of the type 't5'", "'clip_text_model'"),
        ),
        *(
            (without(f"{BASE}/{file}"), "bases.emoji.model", ("does not load", f"lacks {told or file}", "download all"))
            for file, told in {
                "tokenizer/tokenizer.json": "tokenizer/tokenizer.json (or vocab.json and merges.txt)",
                "tokenizer/tokenizer_config.json": "",
                "scheduler/scheduler_config.json": "",
                "text_encoder": "text_encoder/config.json",
                "vae/diffusion_pytorch_model.safetensors": "",
                "unet/config.json": "",
                "scheduler": "scheduler/scheduler_config.json",
            }.items()
        ),
        (scheduled("LCMScheduler"), "bases.emoji.model", ("LCMScheduler", "distilled", "set scheduler: own")),
        (scheduled("TCDScheduler"), "bases.emoji.model", ("TCDScheduler", "distilled", "set scheduler: own")),
        (scheduled("EDMEulerScheduler"), "bases.emoji.model", ("EDMEulerScheduler", "no betas", "another base")),
        (scheduled("FlowMatchEulerDiscreteScheduler"), "bases.emoji.model", ("FlowMatchEuler", "no betas")),
        (scheduled("UniPCMultistepScheduler", use_flow_sigmas=True), "bases.emoji.model", ("flow matching",)),
        (scheduled("DDPMScheduler", prediction_type="sample"), "bases.emoji.model", ("prediction_type 'sample'",)),
        *(
            (of_json(f"{EMOJI}/{folder}/config.json", model_type=found), place, (f"of the type '{found}'", kind))
            for folder, found, place, kind in (
                ("clip", "clipseg", "measures.judge.model", "CLIPModel"),
                ("clip", "clip_vision_model", "measures.judge.model", "CLIPModel"),
                ("clip", "siglip", "measures.judge.model", "CLIPModel"),
                ("clipseg", "clip", "masks.clipseg.model", "CLIPSegForImageSegmentation"),
            )
        ),
        *(
            (without(f"{EMOJI}/{folder}/{file}"), place, ("does not load", f"lacks {file}"))
            for folder, place in (("clip", "measures.judge.model"), ("clipseg", "masks.clipseg.model"))
            for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json", "preprocessor_config.json")
        ),
    ],
)
def test_what_a_models_files_tell_is_said_before_anything_runs(config, spoil, place, words):
    spoil()
    (line,) = problems_of(config)
    assert line.startswith(f"{SOURCE}: {place}: ")
    for word in words:
        assert word in line
    assert line.endswith(".")


@pytest.mark.parametrize("choice", ["dpm-solver++", "ddim", "own"])
def test_a_scheduler_that_does_not_draw_with_a_base_is_named_with_its_keys(config, choice):
    scheduled("LCMScheduler")()
    config["sampling"]["scheduler"] = choice
    if choice == "own":
        (line,) = problems_of(config)
        assert "bases.emoji.model: 'resources/emoji/pipeline', under images.scheduler: the base is sampled" in line
        config["images"]["scheduler"] = choice
        check_config(config, source=SOURCE)
    else:
        lines = problems_of(config)
        told = (
            ["images.scheduler and sampling.scheduler"]
            if choice == "dpm-solver++"
            else ["images.scheduler:", "sampling.scheduler:"]
        )
        assert len(lines) == len(told)
        assert all(f"under {keys}" in line for keys, line in zip(told, lines, strict=True))


def test_a_base_of_other_noise_can_be_named_as_long_as_nothing_is_trained_on_it(config, tmp_path):
    folder = shutil.copytree(BASE, tmp_path / "edm")
    changed(folder / "scheduler/scheduler_config.json", _class_name="EDMEulerScheduler")
    config["bases"]["edm"] = {"model": str(folder), "revision": None}
    config["images"]["scheduler"] = config["sampling"]["scheduler"] = "own"
    check_config(config, source=SOURCE)
    config["tasks"]["objects"]["base"] = "edm"
    (line,) = problems_of(config)
    assert "bases.edm.model" in line


@pytest.mark.parametrize("name", ["v1-5-pruned.safetensors", "model.ckpt", "some.PT"])
@pytest.mark.parametrize("place", ["bases.emoji.model", "measures.judge.model"])
def test_a_single_file_is_no_model(config, tmp_path, place, name):
    (tmp_path / name).touch()
    for path in (name, f"./{name}", str(tmp_path / name)):
        put(config, place, path)
        (line,) = problems_of(config)
        assert line.startswith(
            f"{SOURCE}: {place}: {path!r} is a single file, no folder in diffusers format; convert it"
        )
        assert ".from_single_file(FILE).save_pretrained(FOLDER), and name that folder." in line


def test_parts_that_draw_nothing_may_be_absent(config):
    for name, kind in {
        "safety_checker": ["stable_diffusion", "StableDiffusionSafetyChecker"],
        "feature_extractor": ["transformers", "CLIPImageProcessor"],
        "image_encoder": ["transformers", "CLIPVisionModelWithProjection"],
    }.items():
        index(**{name: kind})()
    check_config(config, source=SOURCE)


def test_what_the_workflow_makes_need_not_exist(config):
    config["priors"]["captions"]["file"] = "results/coco/captions.csv"
    config["measures"]["judge"]["model"] = "results/models/clip"
    assert len(problems_of(config)) == 2
    check_config(config, source=SOURCE, made=("results/",))


@pytest.mark.parametrize("config", [None, [], "text", {}, {"tasks": 1, "suites": [], "mace": None}, {1: 2}])
def test_any_shape_gets_an_error_not_a_crash(config):
    assert problems_of(config)


def test_an_error_survives_the_trip_between_processes():
    error = pickle.loads(pickle.dumps(ConfigError("one.", "two.")))
    assert str(error) == "one.\ntwo."
    assert isinstance(error, ValueError)


def test_mask_settings_are_those_of_the_chosen_segmenter(config):
    masks = config["masks"]
    masks["prompts"]["person"] = "a person"
    assert mask_settings(masks, "person") == {
        "segmenter": "clipseg",
        "when_nothing_found": "full-frame",
        "prompt": "a person",
        "model": "resources/emoji/clipseg",
        "revision": None,
        "threshold": 0.5,
    }
    masks["segmenter"] = "grounded-sam"
    chosen = mask_settings(masks, "object")
    assert chosen["prompt"] == "{}"
    assert set(chosen) == {"segmenter", "when_nothing_found", "prompt", *masks["grounded-sam"]}
    assert mask_settings(masks, "style") == {"segmenter": "full-frame"}
    masks["segmenter"] = "full-frame"
    assert mask_settings(masks, "explicit") == {"segmenter": "full-frame"}


def test_nearest():
    assert nearest("Autom0bile", ["ship", "automobile"]) == "automobile"
    assert nearest("xyz", ["ship", "automobile"]) is None


def test_a_choice_of_numbers_is_told_like_one_of_words(config) -> None:
    config["methods"]["uce"] = {"convention": 2025}
    check_config(config, source=SOURCE)
    config["methods"]["uce"] = {"convention": "2025"}
    (line,) = problems_of(config)
    assert "methods.uce.convention must be one of 2023, 2025; got '2025'; did you mean 2025?" in line


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("ship", "must be a list of texts, which may be empty, or {prior: NAME}; got 'ship'; put it in brackets."),
        (3, "must be a list of texts, which may be empty, or {prior: NAME}; got 3; put it in brackets."),
        ({"prior": "caption"}, ".prior: priors has no entry 'caption'; did you mean captions?"),
        ({"prior": ["captions"]}, ".prior must be text, not empty; got ['captions']"),
        ({"priors": "captions"}, ".priors is not a known key; did you mean prior?"),
        ({}, "lacks the key prior; add it: An entry of priors, whose texts are the list"),
        ([""], "[0] must be text, not empty"),
    ],
)
def test_a_list_of_texts_is_written_out_or_that_of_a_prior(config, given, told) -> None:
    config["methods"]["uce"] = {"preserve": ["a bird"]}
    check_config(config, source=SOURCE)
    config["methods"]["uce"] = {"preserve": {"prior": "captions"}}
    check_config(config, source=SOURCE)
    config["methods"]["uce"] = {"preserve": given}
    assert any(told in line and "methods.uce.preserve" in line for line in problems_of(config))


def mappings(node):
    """Every sub-schema that describes a mapping with fixed keys."""
    if isinstance(node, dict):
        if isinstance(node.get("properties"), dict) and "object" in node.get("type", ()):
            yield node
        for value in node.values():
            yield from mappings(value)
    elif isinstance(node, list):
        for value in node:
            yield from mappings(value)


def test_the_schema_is_closed_and_explains_every_key(config):
    schema = schema_of(config)
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    plugins = [manifest(room, name).settings for room in ROOMS for name in kinds(room)]
    for mapping in (*mappings(schema), *plugins):
        assert mapping["additionalProperties"] is False or "propertyNames" in mapping
        assert set(mapping.get("required", ())) <= set(mapping["properties"])
        for key, rule in mapping["properties"].items() if "propertyNames" not in mapping else ():
            assert re.fullmatch(r"[^\n]+\.", rule["description"]), key
            assert ("default" in rule) + (key in mapping.get("required", ())) < 2, key
    for name, rule in schema["$defs"].items():
        assert "title" in rule or "enum" in rule or "properties" in rule, name


def test_a_table_over_tasks_that_are_measured_otherwise_is_refused(config):
    """Suites may differ, as they show other concepts; what a number's protocol depends on may not."""
    config["tasks"]["other"] = copy.deepcopy(config["tasks"]["objects"]) | {"evaluation": "other"}
    config["evaluations"]["other"] = copy.deepcopy(config["evaluations"]["objects"]) | {"kind": "objects"}
    config["tables"]["both"] = {"tasks": ["objects", "other"], "figure": None, "costs": False, "published": None}
    config["evaluations"]["other"]["kept"] = "synonyms"
    check_config(config)
    config["measures"]["another"] = {"kind": "clip", "model": "resources/emoji/clip"}
    config["evaluations"]["other"] |= {"clip": "another", "class_prompt": "one {}"}
    assert problems_of(config) == [
        f"{SOURCE}: tables.both: two protocols never share a column, and tasks objects and other differ in clip and "
        "class_prompt of evaluations.objects and evaluations.other; make them alike, or give each task a table of its "
        "own."
    ]


def test_text_in_tables_of_results_is_ours_alone() -> None:
    """A spreadsheet takes a cell that begins with = + - @ for a formula: the table of numbers holds names that the
    schema allows for methods and tasks, and numbers, nothing else."""
    names = [frame()["$defs"][name]["pattern"] for name in ("method_name", "task_name")]
    for begin in "=+-@":
        assert not any(re.match(pattern, f"{begin}cmd") for pattern in names)


def test_the_readme_tells_of_every_key_what_the_schema_and_the_manifests_say():
    readme = (ROOT / "config/README.md").read_text()
    (shown,) = re.findall(r"<!-- keys -->\n(.+?)<!-- end of keys -->", readme, re.DOTALL)
    assert shown == tables_of_keys()


def test_defaults_fill_in_what_a_configuration_leaves_out(config):
    """A hand-written whole against what the schema says."""
    brief = yaml.safe_load(Path("config/config.yaml").read_text())
    brief["tasks"]["objects"]["methods"] = ["mace", "mace-naive"]
    brief["methods"]["mace-naive"] = {"kind": "mace", "fusion": "sum"}
    brief["tasks"]["objects"]["mace-naive"] = {"lamb": 3.0, "lora": {"steps": 7}}
    whole = check_config(brief, source=SOURCE)
    assert (whole["device"], whole["seed"], whole["templates"]["used"]) == ("auto", 2024, 30)
    assert whole["images"]["prompts"]["style"] == "a photo in the style of {}"
    assert whole["images"]["steps"] == 20
    assert whole["methods"]["mace"]["kind"] == "mace"
    assert whole["methods"]["mace"]["lora"]["steps"] == 50
    assert whole["bases"]["emoji"]["revision"] is None
    assert whole["tables"] == {}
    assert "mace-naive" in whole["tasks"]["objects"]
    naive = method_of(whole, "objects", "mace-naive")
    assert (naive["fusion"], naive["lamb"], naive["prior"], naive["lora"]["steps"]) == ("sum", 3.0, None, 7)
    assert naive["lora"]["rank"] == 1
    assert method_of(whole, "objects", "mace")["lamb"] == 1.0
    assert "kind" not in brief["methods"]["mace"]  # the given one stays as it was


def test_a_method_that_a_task_names_needs_no_entry(config):
    del config["methods"]
    config["tasks"]["objects"]["methods"] = ["mace"]
    assert check_config(config, source=SOURCE)["methods"]["mace"]["lamb"] == 0.1


def test_files_put_together_replace_entries_whole():
    """F08: nothing of an entry or a section that a later file writes stays from an earlier one."""
    first = {"suites": {"a": {"file": "x", "rows": 160}, "b": {"file": "y"}}, "images": {"count": 8, "steps": 3}}
    later = {"suites": {"a": {"file": "z"}}, "images": {"count": 2}, "seed": 1}
    assert merged([first, later]) == {
        "suites": {"a": {"file": "z"}, "b": {"file": "y"}},
        "images": {"count": 2},
        "seed": 1,
    }
    assert first["suites"]["a"]["rows"] == 160


def test_settings_prints_what_is_used_and_where_it_comes_from(config, capsys):
    assert main(["settings"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "images.steps: 20  # config/config.yaml" in lines
    assert "images.count: 8  # default" in lines
    assert "methods.mace.lora.rank: 1  # default of mace" in lines
    assert 'methods.mace.prior: "captions"  # config/config.yaml' in lines
    assert "suites.objects.seeds: [1, 2]  # config/config.yaml" in lines
    Path("mine.yaml").write_text("device: gpu\n")
    assert main(["settings", "mine.yaml"]) == 2
    assert "mine.yaml: device must be auto" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"mace": {"lamb": "0.5"}}, {"mace": {"lamb": 0.5, "prior": "captions"}}),
        ({"mace": {"prior": "null", "lamb": "1.0e-5"}}, {"mace": {"lamb": 1e-5, "prior": None}}),
        ({"mace": {"lora": {"use_pooler": "false"}}}, {"mace": {"lora": {"use_pooler": False}, "prior": "captions"}}),
        ({"figures": {"seeds": ["1", "2"]}}, {"figures": {"seeds": [1, 2]}}),
        ({"mace": {"prior": "names 7"}}, {"mace": {"prior": "names 7"}}),
        ({"mace": {"prior": "[a"}}, {"mace": {"prior": "[a"}}),
        ({"seed": 3}, {"seed": 3}),
        ({"concepts": "null"}, {"concepts": "null"}),  # of the first level Snakemake's own reading stays
    ],
)
def test_nested_values_of_config_are_read_as_yaml(given: dict, want: dict) -> None:
    """F19: Snakemake hands them on as text."""
    config = {"mace": {"prior": "captions"}}
    for key, value in given.items():
        config[key] = config.get(key, {}) | value if isinstance(value, dict) else value
    read_overrides(config, given)
    assert {key: config[key] for key in want} == want


# Bad input


def renamed(section: str, name: str) -> Prepare:
    """A configuration whose section has an entry more, of this name."""

    def prepare(place: Place) -> Act:
        place.config[section][name] = next(iter(place.config[section].values()))
        return place.start

    return prepare


def key(at: str, value: object) -> Prepare:
    """A configuration with another value at a dotted place."""

    def prepare(place: Place) -> Act:
        put(place.config, at, value)
        return place.start

    return prepare


def weights_as_pickle(place: Place) -> Act:
    (place.work / BASE / UNET).unlink()
    place.write(f"{BASE}/unet/diffusion_pytorch_model.bin", PICKLE)
    return place.start


def from_yaml(text: str | bytes, old: str = "") -> Prepare:
    """The shipped file with `text` at its end, or in place of the line that begins with `old`, loaded by Snakemake."""

    def prepare(place: Place) -> Act:
        shipped = (ROOT / "config" / "config.yaml").read_bytes()
        new = text if isinstance(text, bytes) else text.encode()
        if old:
            new = re.sub(rb"(?m)^%s.*$" % old.encode(), new.replace(b"\\", rb"\\"), shipped)
            assert new != shipped
        else:
            new = shipped + b"\n" + new
        path = place.write("mine.yaml", new)

        def act() -> None:
            place.config = {}
            update_config(place.config, load_configfile(path))
            place.start((path,))

        return act

    return prepare


NAMED = ("needs another name: it must be letters, digits", "as it names a folder")
HUB = "is no hub id (owner/name), and there is no folder"
NO_YAML = ("Config file is not valid JSON or YAML",)
CASES = [
    *refusals(
        "a name in the configuration",
        {
            "traversal": ("tasks", "../x", (f"tasks.'../x' {NAMED[0]}", NAMED[1])),
            "command": ("tasks", "$(touch canary)", NAMED),
            "parent folder": ("bases", "..", NAMED),
            "hidden folder": ("suites", ".git", NAMED),
            "option": ("evaluations", "--settings", NAMED),
            "braces": ("suites", "{shard}", NAMED),
            "space": ("priors", "a b", NAMED),
            "300 characters": ("tasks", "x" * 300, (*NAMED, "at most 60 characters")),
            "the unedited base": ("tasks", "original", ("tasks.original", "not 'original'")),
            "a folder with another meaning": (
                "bases",
                "tables",
                ("bases.tables", "not that of another folder of results"),
            ),
            "line break": ("tasks", "x\n", (r"tasks: the key 'x\n' is no plain text", "on one line")),
        },
        renamed,
    ),
    *refusals(
        "a path in the configuration",
        {
            "hub id with a traversal": (
                "bases.emoji.model",
                "owner/name/../../x",
                ("bases.emoji.model", HUB, "correct it"),
            ),
            "hub id that ends in a folder above": ("bases.emoji.model", "owner/..", (HUB,)),
            "hub id that ends in a dot": ("bases.emoji.model", "owner/.", (HUB,)),
            "home": ("bases.emoji.model", "~/models/sd", (HUB,)),
            "URL": ("bases.emoji.model", "https://huggingface.co/owner/name", (HUB,)),
            "command": ("bases.emoji.model", "owner/$(touch canary)", (HUB,)),
            "absolute path": (
                "bases.emoji.model",
                "/absent/model",
                ("config/config.yaml: bases.emoji.model: there is no folder '/absent/model'; correct the path.",),
            ),
            "hub id under a revision with a traversal": (
                "bases.emoji",
                {"model": "owner/name", "revision": "refs/../../x"},
                ("bases.emoji.model: 'refs/../../x' is no commit, tag or branch",),
            ),
            "file that looks like an option": (
                "templates.object",
                "--threads",
                ("templates.object", "begins with '-'"),
            ),
            "file that looks like a wildcard": (
                "templates.object",
                "{base}.txt",
                ("has braces like a wildcard", "rename"),
            ),
            "path of 5,000 characters": ("concepts", "x" * 5000, ("concepts: there is no file", "correct the path")),
            "path with a NUL": ("templates.style", "a\0b", (r"templates.style", r"'a\x00b'; remove it")),
            "path with half a surrogate pair": ("concepts", "a\ud800", ("concepts holds a", r"'a\ud800'; remove it")),
            "device": ("concepts", "/dev/zero", ("concepts: there is no file '/dev/zero'",)),
            "folder": ("concepts", "config", ("concepts: there is no file",)),
        },
        key,
    ),
    Case(
        "a path in the configuration: model with its weights as a pickle",
        weights_as_pickle,
        ("bases.emoji.model", "only as a pickle, diffusion_pytorch_model.bin", "safe_serialization=True"),
    ),
    *refusals(
        "YAML",
        {
            "tag that runs a command": ("x: !!python/object/apply:os.system ['touch canary']\n", NO_YAML),
            "tag that makes an object": ("x: !!python/object/new:os.system ['touch canary']\n", NO_YAML),
            "tag that names a function": (
                "device: !!python/name:os.system\n",
                ("device must be auto",),
            ),
            "list in place of a mapping": ("tasks: [objects]\nx: 1", "tasks:", NO_YAML),
            "two documents": ("---\nseed: 1\n", NO_YAML),
            "NUL": ("x: a\0b\n", NO_YAML),
            "key that is nothing": ("? \n: x\n", ("the key null is no plain text", "put it in quotes")),
            "key twice": (
                "concepts: x.tsv\n",
                ("mine.yaml: row", "the key 'concepts' is already in row", "remove one"),
            ),
            "number out of range": ("seed: 99999999999999999999\n", ("seed must be a whole number from 0 to",)),
            "number that is none": ("seed: .nan\n", ("seed must be a whole number", "got nan")),
        },
        from_yaml,
    ),
    *refusals(
        "a suite's rows",
        {
            "column missing": ("type,prompt\na,b\n", ("has no column 'evaluation_seed'", "Its columns")),
            "latin-1": ((ROWS + "a,café,1\n").encode("latin-1"), ("is no table in UTF-8", "save it as one")),
            "UTF-16": ((ROWS + "a,b,1\n").encode("utf-16"), ("is no table in UTF-8", "save it as one")),
            "empty file": ("", ("captions.csv' has no column 'prompt'",)),
        },
        started_with(SUITE),
    ),
]


@each_of(CASES)
def test_bad_names_paths_files_and_yaml_are_refused(place: Place, case: Case, capsys: pytest.CaptureFixture) -> None:
    case.check(place, capsys)
