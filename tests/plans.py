"""A working directory with all that a configuration can name, and which steps of its plan rerun after a change."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterator, Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from conftest import model_stand_ins
from lethe.config.planning import I2P, read_inputs
from lethe.config.schema import frame, schema_of, with_defaults
from lethe.jobs import Job
from lethe.plan import Plan
from lethe.records.fingerprints import sha256_of
from running import ROOT

# The shipped configuration, with one suite for what is erased and what is kept, and more left to defaults.
SHIPPED = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
del SHIPPED["suites"]["erased"], SHIPPED["priors"]["kept"], SHIPPED["methods"]["mace"]["domain_prior"]
del SHIPPED["methods"]["mace"]["preserve_weight"], SHIPPED["methods"]["mace"]["lora"]["use_pooler"]
SHIPPED["evaluations"]["objects"]["erased"] = "objects"
ABSENT = object()  # for a key that is left out

# What a user gives

COCO = ["results/coco/captions_train2014.json", "results/coco/captions_val2014.json"]
TEMPLATES = "# of KIND\na photo of the KIND {}\na picture of {}\none {}\nanother {}\n"
CONCEPTS = """concept\tkind\tanchor\tsynonyms
ship\tobject\tground\tvessel; boat
Hokusai's "wave"\tstyle\tart\tukiyo-e
bird\tobject\tsky\tfowl
"""
SYNONYMS = """concept\tsynonyms\tother
ship\tvessel; boat\tHokusai's "wave"
Hokusai's "wave"\tukiyo-e\tship
"""
CLASSES = """object\tword\tother\ticon
ship\tvessel\tHokusai's "wave"\t1
Hokusai's "wave"\tukiyo-e\tship\t2
bird\tfowl\tdog\t3
dog\thound\tbird\t4
"""
SCENES = """label,kind,text,words,sd_seed,seed,sd_guidance,scale,w,h,side,note
ship,dog,a ship,one boat,1,2,5.0,6.0,64,64,128,x
dog,dog,a dog,one hound,3,4,5.0,6.0,64,64,128,y
dog,pup,a puppy,one pup,5,6,5.0,6.0,64,64,128,y
mule,ass,a mule,one ass,7,8,5.0,6.0,64,64,128,y
"""
CAPTIONS = "prompt,title,note\n" + "".join(f"a ship {k},ship {k},x\n" for k in range(5))
REFERENCE = "type,prompt,evaluation_seed,note\n" + "".join(f",a day at sea {k},{k},x\n" for k in range(25))
PAPER = """tables:
  first: &table
    source: somebody
    file: paper.csv
    rows: {method: method, count: concepts}
    numbers: {acc: {number: acc_e, protocol: clip-top1@1 of 4 classes by resources/emoji/clip}}
  second: {<<: *table, source: somebody again}
"""
PRINTED = "method,concepts,acc\nMACE,1,5\nOther,2,6\n"
KINDS = ("object", "person", "style", "explicit")
OWN_TEMPLATES, MINE = OWN_AND_MINE = ("lethe_templates", "resources/templates")  # Lethe's own, and a user's
GIVEN = {
    "config/concepts.tsv": CONCEPTS,
    "config/other_concepts.tsv": CONCEPTS.replace("sky", "cloud").replace("ground", "street").replace("boat", "barge"),
    **{
        f"{folder}/{kind}.txt": TEMPLATES.replace("KIND", f"{kind} {folder}")
        for folder in OWN_AND_MINE
        for kind in KINDS
    },
    "resources/synonyms.tsv": SYNONYMS,
    "resources/templates/names.txt": "{} at sea\n",
    "resources/templates/other.txt": "a drawing of {}\n",
    "resources/templates/anchors.txt": "".join(f"picture {k} of {{}}\n" for k in range(1, 10)),
    "resources/captions.csv": CAPTIONS,
    "resources/other_captions.csv": CAPTIONS.replace("ship", "bird"),
    "resources/names.txt": "Ada\nÉmile Zola\n",
    "resources/words.txt": "sky\nsea\n",
    "resources/other.txt": "wind\n",
    "resources/classes.tsv": CLASSES,
    "resources/other_classes.tsv": CLASSES.replace("dog", "cat"),
    "resources/more_classes.tsv": CLASSES + "horse\tpony\thorse\t5\n",
    "resources/things.tsv": CLASSES,
    "resources/other_things.tsv": CLASSES.replace("ship\tvessel", "boat\tvessel"),
    "resources/ghosts.tsv": "object\tword\nyeti\tsnowman\nunicorn\tmono\n",
    "resources/other_ghosts.tsv": "object\tword\nnessie\tsnake\n",
    "resources/reference.csv": REFERENCE,
    "resources/other.csv": REFERENCE.replace("sea", "home").replace("\n,", "\nship,"),
    "resources/scenes.csv": SCENES,
    "resources/other_scenes.csv": SCENES.replace("a dog", "the dog"),
    "resources/paper.yaml": PAPER,
    "resources/paper.csv": PRINTED,
    "resources/other_paper.yaml": PAPER.replace("somebody", "somebody else"),
    "resources/inception.pt": "a network",
    "resources/other_inception.pt": "another",
}
WEIGHTS = "weights"  # what a stand-in holds for them, before the file's path
HALF = "pipeline/unet/diffusion_pytorch_model.fp16.safetensors"


def models_given() -> dict[str, str]:
    """Files of models by their paths: the shipped ones, two parts of a segmenter, and others of each in `other`."""
    models = {path: text or f"{WEIGHTS} {path}" for path, text in model_stand_ins().items()}
    for name, kind in {"detector": "grounding-dino", "sam": "sam"}.items():
        models[f"resources/emoji/{name}/config.json"] = json.dumps({"model_type": kind})
        models[f"resources/emoji/{name}/preprocessor_config.json"] = "{}"
        models[f"resources/emoji/{name}/model.safetensors"] = f"{WEIGHTS} {name}"
    others = {path.replace("emoji", "other"): text.replace(WEIGHTS, "other") for path, text in models.items()}
    others[f"resources/other/{HALF}"] = "half"
    of_base = {path: text for path, text in others.items() if path.startswith("resources/other/pipeline")}
    thirds = {path.replace("other", "third"): text.replace("other", "third") for path, text in of_base.items()}
    return models | others | thirds


def make_folder(folder: Path) -> Path:
    """Fill a working directory: tables, texts, pictures, and models whose weights are a few bytes."""
    for name, text in (GIVEN | models_given()).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    draw_pictures(folder / "resources/reference.zip", "red")
    draw_pictures(folder / "resources/other.zip", "blue")
    return folder


def draw_pictures(path: Path, colour: str) -> None:
    """An archive of two real images, the second one of a colour."""
    with zipfile.ZipFile(path, "w") as archive:
        for number, painted in enumerate(("white", colour)):
            picture = io.BytesIO()
            Image.new("RGB", (4, 4), painted).save(picture, "PNG")
            archive.writestr(f"{number}.png", picture.getvalue())


# Configurations


def usual() -> dict:
    """The shipped configuration with an entry of every form, with more of its parts in use, and with every default.

    A domain prior counts and LoRAs keep how the anchor looks. Of each section one entry is named by nothing.
    """
    config = with_defaults(SHIPPED)
    config["bases"]["other"] = {"model": "resources/other/pipeline", "revision": None, "variant": "fp16"}
    config["tasks"]["objects"]["concepts"] = ["ship", 'Hokusai\'s "wave"']
    config["templates"] |= {"used": 3, "style": f"{MINE}/style.txt"}
    config["images"]["anchor_prompts"]["style"] = f"{MINE}/anchors.txt"
    config["priors"] = {
        "captions": {"file": "resources/captions.csv", "column": "prompt"},
        "names": {"file": "resources/names.txt", "words": [1, 2], "templates": f"{MINE}/names.txt"},
        "words": {"file": "resources/words.txt", "templates": ["a photo of {}", "{} at sea"]},
        "coco": {"coco": COCO},
    }
    config["methods"]["mace"] |= {"domain_prior": "names", "preserve_weight": 2.0}
    config["methods"]["mace"]["lora"]["preservation_weight"] = 0.5
    config["methods"]["mace-naive"] = {"kind": "mace", "fusion": "sum"}
    for name in ("detector", "sam"):
        config["masks"]["grounded-sam"][name] = {"model": f"resources/emoji/{name}", "revision": None}
    columns = {"type": "label", "prompt": "text", "evaluation_seed": "sd_seed"}
    columns |= {"guidance": "sd_guidance", "width": "w", "height": "h"}
    config["suites"]["objects"] |= {"table": "resources/things.tsv", "seeds": [1, 2]}
    config["suites"]["synonyms"]["seeds"] = [1, 2]
    config["suites"]["reference"] = {"file": "resources/reference.csv", "rows": 20}
    config["suites"]["scenes"] = {"file": "resources/scenes.csv", "columns": columns}
    config["suites"]["spare"] = {"file": "resources/other.csv"}
    config["suites"]["few"] = config["suites"]["objects"] | {"words": [1, 2]}
    config["suites"]["drawn"] = {"coco": COCO[1], "rows": 30, "seed": 3}
    named = {"type": "kind", "prompt": "text", "evaluation_seed": "sd_seed"}
    config["suites"]["i2p"] = {"file": I2P, "columns": named, "rows": 14}
    config["sampling"] |= {"batch": 5, "shard_size": 12}
    config["measures"]["other"] = {"kind": "clip", "model": "resources/other/clip"}
    config["measures"]["features"] = {"kind": "inception", "weights": "resources/inception.pt"}
    measured = config["evaluations"]["objects"]
    measured |= {"classes": {"table": "resources/classes.tsv", "column": "object"}, "kept": "scenes"}
    measured["reference_images"] = "resources/reference.zip"
    config["evaluations"]["other"] = copy.deepcopy(measured) | {"clip": "other", "class_prompt": "one {}"}
    return with_defaults(config)


def unusual() -> dict:
    """The same where each choice is another one: base, segmenter, priors, what LoRAs train on, how anchors are kept."""
    config = usual()
    config["tasks"]["objects"] |= {"base": "other", "suites": ["spare", "few", "drawn", "i2p"]}
    config["masks"]["segmenter"] = "grounded-sam"
    config["methods"]["mace"] |= {"prior": "coco", "domain_prior": "words", "lora_base": "task"}
    config["methods"]["mace"]["lora"]["preservation_weight"] = 0.0
    config["suites"]["synonyms"]["table"] = "resources/synonyms.tsv"
    config["evaluations"]["objects"] |= {"kept": "objects", "fid": "features"}
    config["templates"] |= {kind: f"{MINE}/{kind}.txt" for kind in ("object", "person", "explicit")} | {"style": None}
    config["images"]["anchor_prompts"] = dict.fromkeys(KINDS, f"{MINE}/anchors.txt")
    return config


def several() -> dict:
    """The usual one with two further tasks: one of another method, in a table with the first, and one not measured."""
    config = usual()
    task = {"base": "emoji", "concepts": ["bird"], "methods": ["mace-naive"], "evaluation": "objects", "suites": []}
    config["tasks"]["birds"] = task
    config["tasks"]["shown"] = task | {"concepts": ["ship"], "evaluation": None, "suites": ["spare"]}
    published = {"set": "resources/paper.yaml", "table": "first", "methods": {"mace": "MACE"}}
    config["tables"]["both"] = {"tasks": ["objects", "birds"], "figure": "counts", "costs": False, "average": False}
    config["tables"]["both"]["published"] = published
    return config


def attacked() -> dict:
    """The usual one with a further task whose edits are attacked."""
    config = usual()
    task = {"base": "emoji", "concepts": ["ship", "bird"], "methods": ["mace-naive"], "evaluation": "attacks"}
    config["tasks"]["brought-back"] = task | {"suites": []}
    config["measures"]["second"] = {"kind": "classifier", "model": "resources/emoji/second_judge"}
    config["measures"]["third"] = {"kind": "classifier", "model": "resources/other/second_judge"}
    listed = {"hyponym_column": "object", "hypernym_column": "other", "prompt_column": "word"}
    tables = {"hypernyms": "resources/things.tsv", "prompts": "resources/other_things.tsv"}
    config["probes"] = {"name-ladder": listed | tables, "again": {"kind": "relearning"}}
    config["probes"]["sweep"] = {"kind": "vocabulary-sweep"}
    config["evaluations"]["attacks"] = {
        "probes": ["name-ladder", "again", "sweep"],
        "clip": "judge",
        "classifier": "second",
        "classes": {"table": "resources/classes.tsv", "column": "object"},
        "ghosts": {"table": "resources/ghosts.tsv"},
    }
    return with_defaults(config)


def put(config: dict, place: str, value: Any) -> dict:
    """The configuration with another value at a dotted place; ABSENT takes the key out."""
    changed = copy.deepcopy(config)
    *parents, last = place.split(".")
    node = changed
    for key in parents:
        node = node[key]
    if value is ABSENT:
        del node[last]
    else:
        node[last] = value
    return changed


def leaves(config: Mapping, above: str = "") -> dict[str, Any]:
    """Every key that holds no further keys, dotted, with its value."""
    found = {}
    for key, value in config.items():
        found |= leaves(value, f"{above}{key}.") if isinstance(value, Mapping) else {f"{above}{key}": value}
    return found


# Plans

MadeBy = Mapping[str, tuple[str, str]]  # the step and digest of each output's job
Steps = Set[str]


@cache
def _hash(path: str, changed: int, size: int) -> str:
    return sha256_of(Path(path))


def kept_hash(path: Path) -> str:
    """SHA-256 of a file, read once until it changes."""
    state = path.stat()
    return _hash(str(path.absolute()), state.st_mtime_ns, state.st_size)


def plan_of(config: dict) -> Plan:
    """The plan of a configuration in the working directory; a model that is no folder there is nowhere."""

    def locate(model: str, *_: str | None) -> Path | None:
        return Path(model) if Path(model).is_dir() else None

    return Plan(config, read_inputs(config), locate=locate, hash_file=kept_hash)


def made_by(config: dict) -> MadeBy:
    """Every output of a run: which step makes it, and the digest of its job.

    What samples and measures the base as it is goes by another name than what does so with an edit.
    """
    return {path: (name_of(job), job.digest) for job in plan_of(config).jobs for path in job.outputs.values()}


def name_of(job: Job) -> str:
    """The name of a job's step; `base:` before it if it samples or measures the base as it is."""
    of_base = any("/original/" in path for path in job.outputs.values())
    return f"base:{job.step.name}" if of_base else job.step.name


def written(before: MadeBy, config: dict) -> set[str]:
    """The outputs that a run of a configuration makes, after one that made those `before`."""
    return {path for path, made in made_by(config).items() if before.get(path) != made}


def rerun(before: MadeBy, config: dict) -> set[str]:
    """The steps that then run: those whose jobs are new or have another digest."""
    return {name for path, (name, digest) in made_by(config).items() if before.get(path) != (name, digest)}


def keys_of_schema(config: dict) -> Iterator[tuple[str, Mapping]]:
    """Dotted paths of every key that the schema knows, with its rule; entries of no plug-in as <name>."""
    yield from _keys(schema_of(config), "")


def _keys(node: Mapping, path: str) -> Iterator[tuple[str, Mapping]]:
    node = {**frame()["$defs"][node["$ref"].rsplit("/", 1)[-1]], **node} if "$ref" in node else node
    if path:
        yield path.strip("."), node
    for key, child in node.get("properties", {}).items():
        yield from _keys(child, f"{path}.{key}")
    if isinstance(node.get("additionalProperties"), dict):
        yield from _keys(node["additionalProperties"], f"{path}.<name>")
    if isinstance(node.get("items"), dict):
        yield from _keys(node["items"], path)
    for form in node.get("oneOf", []):
        yield from _keys(form, path)
