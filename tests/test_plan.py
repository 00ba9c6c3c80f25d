"""What reruns after a change, as a function: every key of the configuration, every given file, every module."""

from __future__ import annotations

import copy
import json
import re
import shlex
import shutil
import socket
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from lethe import plugins
from lethe.bases.folder import loaded_files
from lethe.config.checks import check_config
from lethe.config.planning import check_plan, read_inputs
from lethe.config.schema import schema_of, walk
from lethe.inputs import templates
from lethe.jobs import Given, Job, Made, Step
from lethe.messages import ConfigError
from lethe.plan import Plan
from lethe.records import code
from plans import (
    ABSENT,
    COCO,
    HALF,
    OWN_TEMPLATES,
    SHIPPED,
    MadeBy,
    Steps,
    attacked,
    kept_hash,
    keys_of_schema,
    leaves,
    made_by,
    make_folder,
    plan_of,
    put,
    rerun,
    several,
    unusual,
    usual,
    written,
)
from running import ROOT

# Steps that run together: what changes, and all that follows from it. `base:` marks the samples, and their measures, of
# the base as it is, which no edit changes.

NOTHING: Steps = frozenset()
TABLE = {"table", "gallery"}  # whose page shows verdicts and numbers
SHOWN = TABLE | {"examples"}
AFTER_EDIT = {"sample", "measure"} | SHOWN
AFTER_SAMPLING = {"base:sample", "base:measure"} | AFTER_EDIT
AFTER_JOIN = {"edit"} | AFTER_EDIT
AFTER_TRAINING = {"lora", "losses"} | AFTER_JOIN
AFTER_MOMENTS = {"moments"} | AFTER_TRAINING
AFTER_PRIOR = {"prior"} | AFTER_TRAINING
AFTER_MASKS = {"masks", "mask_sheets"} | AFTER_TRAINING
AFTER_ANCHOR_IMAGES = {"anchor_images"} | AFTER_TRAINING
AFTER_IMAGES = {"images", "anchor_images"} | AFTER_MASKS
AFTER_ROWS = AFTER_SAMPLING  # of a suite that the figure shows
AFTER_QUALITY_ROWS = AFTER_SAMPLING - {"examples"}
AFTER_CLASSES = {"texts"} | TABLE
SAMPLES = {"base:sample", "sample"}  # of a suite that is measured by nothing
AFTER_DRAW = {"suite"} | SAMPLES
AFTER_REFERENCE = {"reference"} | TABLE
AFTER_FEATURES = {"measure", "base:measure"} | AFTER_REFERENCE
AFTER_JUDGE = {"measure", "base:measure"} | AFTER_CLASSES | AFTER_REFERENCE
AFTER_NETWORK = {"base"} | AFTER_IMAGES | AFTER_SAMPLING
AFTER_BASE = {"moments", "prior"} | AFTER_NETWORK


def of_task(steps: Steps) -> Steps:
    """The same steps where LoRAs are trained on the base refined for the whole task, and anchors have no images."""
    return {"task_lora" if step == "lora" else step for step in steps} - {"anchor_images"}


COUNTED = {"counts", "beside_published"} | TABLE  # a table of several tasks, its picture, a published one beside it
TWIN = "twin"  # in every room of plug-ins, one that does as the shipped one does

# Each key, another value of it, and the steps that then run.

KEYS: dict[str, tuple[Any, Steps]] = {
    "device": ("cpu", NOTHING),
    "offload": (True, NOTHING),
    "warm": (False, NOTHING),
    "precision": ("bfloat16", AFTER_BASE - {"base"}),
    "seed": (7, AFTER_IMAGES),
    "bases.emoji.model": ("resources/other/pipeline", AFTER_BASE),
    "bases.emoji.revision": ("a" * 40, NOTHING),  # of a folder, which its content tells
    "bases.other.model": ("resources/third/pipeline", NOTHING),
    "bases.other.revision": ("a" * 40, NOTHING),
    "bases.other.variant": (ABSENT, NOTHING),
    "concepts": ("config/other_concepts.tsv", AFTER_MOMENTS | AFTER_ANCHOR_IMAGES),
    "tasks.objects.base": ("other", AFTER_BASE),
    "tasks.objects.concepts": (["ship", "bird"], {"moments"} | AFTER_IMAGES | AFTER_ROWS),
    "tasks.objects.methods": (["mace-naive"], AFTER_TRAINING),
    "tasks.objects.evaluation": ("other", AFTER_JUDGE),
    "tasks.objects.suites": (["spare"], {"base:sample", "sample"}),
    "templates.used": (2, AFTER_MOMENTS),
    "templates.object": ("resources/templates/other.txt", AFTER_MOMENTS),
    "templates.person": ("resources/templates/other.txt", NOTHING),
    "templates.style": (None, AFTER_MOMENTS),
    "templates.explicit": ("resources/templates/other.txt", NOTHING),
    "images.count": (3, AFTER_IMAGES),
    "images.prompts.object": ("one {}", AFTER_IMAGES),
    "images.prompts.person": ("one {}", NOTHING),
    "images.prompts.style": ("in the style of {}", AFTER_IMAGES - {"anchor_images"}),
    "images.prompts.explicit": ("one {}", NOTHING),
    "images.anchor_prompts.object": (["one {}", "two {}"], AFTER_ANCHOR_IMAGES),
    "images.anchor_prompts.person": ("resources/templates/other.txt", NOTHING),
    "images.anchor_prompts.style": (None, AFTER_ANCHOR_IMAGES),
    "images.anchor_prompts.explicit": (["one {}"], NOTHING),
    "images.scheduler": ("ddim", AFTER_IMAGES),
    "images.steps": (7, AFTER_IMAGES),
    "images.guidance": (7.0, AFTER_IMAGES),
    "images.batch": (7, AFTER_IMAGES),
    "images.vae_slicing": (True, AFTER_IMAGES),
    "images.vae_tiling": (True, AFTER_IMAGES),
    "masks.segmenter": ("full-frame", AFTER_MASKS),
    "masks.when_nothing_found": ("error", AFTER_MASKS),
    "masks.prompts.object": ("one {}", AFTER_MASKS),
    "masks.prompts.person": ("one {}", NOTHING),
    "masks.prompts.explicit": ("one {}", NOTHING),
    "masks.clipseg.model": ("resources/other/clipseg", AFTER_MASKS),
    "masks.clipseg.revision": ("a" * 40, NOTHING),
    "masks.clipseg.threshold": (0.4, AFTER_MASKS),
    "masks.grounded-sam.detector.model": ("resources/other/detector", NOTHING),
    "masks.grounded-sam.detector.revision": ("a" * 40, NOTHING),
    "masks.grounded-sam.sam.model": ("resources/other/sam", NOTHING),
    "masks.grounded-sam.sam.revision": ("a" * 40, NOTHING),
    "masks.grounded-sam.box_threshold": (0.4, NOTHING),
    "masks.grounded-sam.text_threshold": (0.4, NOTHING),
    "priors.captions.file": ("resources/other_captions.csv", AFTER_PRIOR),
    "priors.captions.column": ("title", AFTER_PRIOR),
    "priors.names.file": ("resources/words.txt", AFTER_PRIOR),
    "priors.names.words": ([1, 1], AFTER_PRIOR),
    "priors.names.templates": ("resources/templates/other.txt", AFTER_PRIOR),
    "priors.words.file": ("resources/names.txt", NOTHING),
    "priors.words.templates": (["one {}"], NOTHING),
    "priors.coco.coco": (COCO[:1], NOTHING),
    "downloads.coco_annotations.url": ("file:///data/annotations.zip", NOTHING),
    "downloads.coco_annotations.sha256": (None, NOTHING),
    "downloads.i2p.url": ("file:///data/i2p.csv", NOTHING),
    "downloads.i2p.sha256": ("a" * 64, NOTHING),
    "methods.mace.kind": (TWIN, AFTER_JOIN),
    "methods.mace.prior": ("words", AFTER_PRIOR),
    "methods.mace.domain_prior": (None, AFTER_TRAINING),
    "methods.mace.preserve_weight": (3.0, AFTER_TRAINING),
    "methods.mace.lora_base": ("task", {"task_lora", "losses"} | AFTER_JOIN),
    "methods.mace.scale_convention": ("published-code", AFTER_TRAINING),
    "methods.mace.train_preserve_scale": (0.2, AFTER_TRAINING),
    "methods.mace.fuse_preserve_scale": (0.5, AFTER_JOIN),
    "methods.mace.lamb": (2.0, AFTER_TRAINING),
    "methods.mace.fusion": ("sum", AFTER_JOIN),
    "methods.mace.edit_form": ("factors", AFTER_JOIN),
    "methods.mace.lora.form": ("supl", AFTER_TRAINING),
    "methods.mace.lora.rank": (2, AFTER_TRAINING),
    "methods.mace.lora.steps": (7, AFTER_TRAINING),
    "methods.mace.lora.learning_rate": (1.0e-4, AFTER_TRAINING),
    "methods.mace.lora.batch": (2, AFTER_TRAINING),
    "methods.mace.lora.max_grad_norm": (2.0, AFTER_TRAINING),
    "methods.mace.lora.use_pooler": (False, AFTER_TRAINING),
    "methods.mace.lora.squared_norm": (True, AFTER_TRAINING),
    "methods.mace.lora.timesteps": ("uniform", AFTER_TRAINING),
    "methods.mace.lora.pixels": ("imagenet", AFTER_TRAINING),
    "methods.mace.lora.preservation_weight": (0.0, AFTER_TRAINING),
    "suites.objects.table": ("resources/other_things.tsv", AFTER_ROWS),
    "suites.objects.column": ("other", AFTER_ROWS),
    "suites.objects.prompt": ("one {}", AFTER_ROWS),
    "suites.objects.seeds": ([2, 3], AFTER_ROWS),
    "suites.synonyms.table": ("config/other_concepts.tsv", AFTER_ROWS),
    "suites.synonyms.column": ("anchor", AFTER_ROWS),
    "suites.synonyms.type_column": ("kind", SHOWN),  # no type of which is erased
    "suites.synonyms.prompt": ("one {}", AFTER_ROWS),
    "suites.synonyms.seeds": ([1, 3], AFTER_ROWS),
    "suites.reference.file": ("resources/other.csv", AFTER_QUALITY_ROWS),
    "suites.reference.rows": (21, AFTER_QUALITY_ROWS),
    "suites.scenes.file": ("resources/other_scenes.csv", AFTER_ROWS),
    "suites.scenes.columns.type": ("kind", AFTER_ROWS),
    "suites.scenes.columns.prompt": ("words", AFTER_ROWS),
    "suites.scenes.columns.evaluation_seed": ("seed", AFTER_ROWS),
    "suites.scenes.columns.guidance": ("scale", AFTER_ROWS),
    "suites.scenes.columns.width": ("side", AFTER_ROWS),
    "suites.scenes.columns.height": ("side", AFTER_ROWS),
    "suites.spare.file": ("resources/reference.csv", NOTHING),
    "suites.few.table": ("resources/other_things.tsv", NOTHING),
    "suites.few.column": ("other", NOTHING),
    "suites.few.words": ([2, 2], NOTHING),
    "suites.few.prompt": ("one {}", NOTHING),
    "suites.few.seeds": ([2, 3], NOTHING),
    "suites.drawn.coco": (COCO[0], NOTHING),
    "suites.drawn.rows": (31, NOTHING),
    "suites.drawn.seed": (4, NOTHING),
    "suites.i2p.file": ("resources/scenes.csv", NOTHING),
    "suites.i2p.columns.type": ("label", NOTHING),
    "suites.i2p.columns.prompt": ("words", NOTHING),
    "suites.i2p.columns.evaluation_seed": ("seed", NOTHING),
    "suites.i2p.rows": (13, NOTHING),
    "sampling.scheduler": ("ddim", AFTER_SAMPLING),
    "sampling.steps": (7, AFTER_SAMPLING),
    "sampling.guidance": (7.0, AFTER_SAMPLING),
    "sampling.batch": (7, AFTER_SAMPLING),
    "sampling.vae_slicing": (True, AFTER_SAMPLING),
    "sampling.vae_tiling": (True, AFTER_SAMPLING),
    "sampling.shard_size": (6, AFTER_SAMPLING),
    "measures.judge.kind": (TWIN, AFTER_JUDGE),
    "measures.judge.model": ("resources/other/clip", AFTER_JUDGE),
    "measures.judge.revision": ("a" * 40, NOTHING),
    "measures.other.kind": (TWIN, NOTHING),
    "measures.other.model": ("resources/emoji/clip", NOTHING),
    "measures.other.revision": ("a" * 40, NOTHING),
    "measures.features.kind": (TWIN, NOTHING),
    "measures.features.weights": (None, NOTHING),
    "measures.features.sha256": (None, NOTHING),
    "evaluations.objects.kind": (TWIN, TABLE),
    "evaluations.objects.clip": ("other", AFTER_JUDGE),
    "evaluations.objects.classes.table": ("resources/more_classes.tsv", AFTER_CLASSES),
    "evaluations.objects.classes.column": ("other", AFTER_CLASSES),
    "evaluations.objects.class_prompt": ("one {}", AFTER_CLASSES),
    "evaluations.objects.erased": ("scenes", AFTER_ROWS),  # of which no row of what is erased was sampled
    "evaluations.objects.generality": (None, SHOWN),
    "evaluations.objects.kept": ("objects", AFTER_ROWS),
    "evaluations.objects.fid": ("features", AFTER_FEATURES),
    "evaluations.objects.quality": ("scenes", AFTER_ROWS),
    "evaluations.objects.reference_images": ("resources/other.zip", AFTER_REFERENCE),
    "evaluations.other.kind": (TWIN, NOTHING),
    "evaluations.other.clip": ("judge", NOTHING),
    "evaluations.other.classes.table": ("resources/other_classes.tsv", NOTHING),
    "evaluations.other.classes.column": ("word", NOTHING),
    "evaluations.other.class_prompt": ("two {}", NOTHING),
    "evaluations.other.erased": ("scenes", NOTHING),
    "evaluations.other.generality": (None, NOTHING),
    "evaluations.other.kept": ("objects", NOTHING),
    "evaluations.other.fid": ("features", NOTHING),
    "evaluations.other.quality": ("scenes", NOTHING),
    "evaluations.other.reference_images": ("resources/other.zip", NOTHING),
    "figures.examples.seeds": ([2, 2], {"examples"}),
    "figures.examples.kept": (1, {"examples"}),
    "figures.gallery": (False, NOTHING),
}

# The spare method is one more entry of the same kind, which no task names: of the same keys none counts.

MACE = "methods.mace."
KEYS |= {key.replace(MACE, "methods.mace-naive."): (value, NOTHING) for key, (value, _) in KEYS.items() if MACE in key}
KEYS["methods.mace-naive.domain_prior"] = ("names", NOTHING)
KEYS["methods.mace-naive.fusion"] = ("none", NOTHING)
KEYS["methods.mace-naive.lora.preservation_weight"] = (0.5, NOTHING)

# As the evaluation wants the one that they are of, and as the twin has other settings.
REFUSED = {"measures.judge.kind", "measures.other.kind", "measures.features.kind"}
REFUSED |= {"tasks.birds.evaluation"}  # as two judges would share the columns of a table

REFUSED |= {"measures.second.kind", "measures.third.kind"}

# Keys that count otherwise in the second configuration.

UNUSUAL_KEYS: dict[str, tuple[Any, Steps]] = {
    "seed": (7, of_task(AFTER_IMAGES)),
    "bases.emoji.model": ("resources/other/pipeline", NOTHING),
    "bases.other.model": ("resources/third/pipeline", of_task(AFTER_BASE)),
    "bases.other.revision": ("a" * 40, NOTHING),
    "bases.other.variant": (ABSENT, of_task(AFTER_NETWORK)),  # which only its U-Net has
    "tasks.objects.suites": ([], NOTHING),
    "templates.object": (None, of_task(AFTER_MOMENTS)),
    "templates.person": (None, NOTHING),
    "templates.style": ("resources/templates/style.txt", of_task(AFTER_MOMENTS)),
    "suites.spare.file": ("resources/reference.csv", {"base:sample", "sample"}),
    "suites.synonyms.type_column": ("other", AFTER_ROWS),
    "suites.few.table": ("resources/other_things.tsv", SAMPLES),
    "suites.few.column": ("other", SAMPLES),
    "suites.few.words": ([1, 3], SAMPLES),
    "suites.few.prompt": ("one {}", SAMPLES),
    "suites.few.seeds": ([2, 3], SAMPLES),
    "suites.drawn.coco": (COCO[0], AFTER_DRAW),
    "suites.drawn.rows": (31, AFTER_DRAW),
    "suites.drawn.seed": (4, AFTER_DRAW),
    "suites.i2p.file": ("resources/scenes.csv", SAMPLES),
    "suites.i2p.columns.type": ("label", AFTER_DRAW),
    "suites.i2p.columns.prompt": ("words", AFTER_DRAW),
    "suites.i2p.columns.evaluation_seed": ("seed", AFTER_DRAW),
    "suites.i2p.rows": (13, AFTER_DRAW),
    "images.count": (3, of_task(AFTER_IMAGES)),
    "masks.when_nothing_found": ("error", of_task(AFTER_MASKS)),
    "masks.clipseg.model": ("resources/other/clipseg", NOTHING),
    "masks.clipseg.threshold": (0.4, NOTHING),
    "masks.grounded-sam.detector.model": ("resources/other/detector", of_task(AFTER_MASKS)),
    "masks.grounded-sam.detector.revision": ("a" * 40, NOTHING),
    "masks.grounded-sam.sam.model": ("resources/other/sam", of_task(AFTER_MASKS)),
    "masks.grounded-sam.sam.revision": ("a" * 40, NOTHING),
    "masks.grounded-sam.box_threshold": (0.4, of_task(AFTER_MASKS)),
    "masks.grounded-sam.text_threshold": (0.4, of_task(AFTER_MASKS)),
    "priors.captions.file": ("resources/other_captions.csv", NOTHING),
    "priors.names.templates": ("resources/templates/other.txt", NOTHING),
    "priors.words.file": ("resources/names.txt", of_task(AFTER_PRIOR)),
    "priors.words.templates": (["one {}"], of_task(AFTER_PRIOR)),
    "priors.coco.coco": (COCO[:1], of_task(AFTER_PRIOR)),
    "downloads.coco_annotations.url": ("file:///data/a.zip", {"coco_annotations"} | of_task(AFTER_PRIOR) | AFTER_DRAW),
    "downloads.coco_annotations.sha256": (None, {"coco_annotations"} | of_task(AFTER_PRIOR) | AFTER_DRAW),
    "downloads.i2p.url": ("file:///data/i2p.csv", {"i2p"} | AFTER_DRAW),
    "downloads.i2p.sha256": ("a" * 64, {"i2p"} | AFTER_DRAW),
    "measures.features.weights": ("resources/other_inception.pt", AFTER_FEATURES),
    "measures.features.sha256": (None, AFTER_FEATURES),
    "evaluations.objects.fid": (None, AFTER_REFERENCE),
    "methods.mace.lora_base": ("concept", AFTER_TRAINING),
    "methods.mace.lora.rank": (2, of_task(AFTER_TRAINING)),
    "methods.mace.lora.preservation_weight": (0.5, {"anchor_images"} | of_task(AFTER_TRAINING)),
}

# Keys of the third, of several tasks, that are in none of the others.

SEVERAL_KEYS: dict[str, tuple[Any, Steps]] = {
    "tasks.birds.base": ("other", COUNTED | AFTER_BASE - {"anchor_images", "prior"}),
    "tasks.birds.concepts": (
        ["ship"],
        COUNTED | {"losses", "mask_sheets", "edit"} | AFTER_ROWS,
    ),  # `shown` has its LoRA
    "tasks.birds.methods": (["mace"], COUNTED | {"anchor_images"} | AFTER_TRAINING),
    "tasks.birds.evaluation": ("other", COUNTED | AFTER_JUDGE),
    "tasks.birds.suites": (["spare"], {"sample"}),
    "tasks.shown.base": ("other", AFTER_BASE - {"anchor_images", "prior", "base", "base:measure", "measure", "table"}),
    "tasks.shown.concepts": (["bird"], {"losses", "mask_sheets", "edit", "sample", "examples", "gallery"}),
    "tasks.shown.methods": (["mace"], {"losses", "edit", "sample", "examples", "gallery"}),
    "tasks.shown.evaluation": ("objects", AFTER_SAMPLING),
    "tasks.shown.suites": (["reference"], {"sample", "examples", "gallery"}),
    "tables.both.tasks": (["objects"], COUNTED),
    "tables.both.figure": (None, NOTHING),
    "tables.both.average": (True, COUNTED),
    "tables.both.costs": (True, {"costs"}),
    "tables.both.published.set": ("resources/other_paper.yaml", {"beside_published"}),
    "tables.both.published.table": ("second", {"beside_published"}),
    "tables.both.published.methods.mace": ("Other", {"beside_published"}),
}

# Keys of the fourth, whose edits are attacked.

AFTER_TRIALS = {"attack_table", "attack_pictures"}
AFTER_LADDER = {"probe", "base:probe"} | AFTER_TRIALS
AFTER_PROBE = {"attack_curves"} | AFTER_LADDER
AFTER_WORDS = {"words", "base:words"} | AFTER_LADDER
AFTER_CONTROLS = {"controls"} | AFTER_PROBE
OF_EDIT = {"losses", "edit", "words", "probe", "attack_curves"} | AFTER_TRIALS
ATTACKED_KEYS: dict[str, tuple[Any, Steps]] = {
    "tasks.brought-back.base": (
        "other",
        {"images", "masks", "moments", "lora", "mask_sheets", "controls", "base:words", "base:probe"} | OF_EDIT,
    ),
    "tasks.brought-back.concepts": (["ship"], {"mask_sheets"} | OF_EDIT),
    "tasks.brought-back.methods": (["mace"], {"lora", "anchor_images"} | OF_EDIT),
    "tasks.brought-back.evaluation": (None, NOTHING),
    "tasks.brought-back.suites": (["spare"], SAMPLES | {"examples", "gallery"}),
    "measures.second.kind": (TWIN, AFTER_CONTROLS),
    "measures.second.model": ("resources/other/second_judge", AFTER_CONTROLS),
    "measures.second.revision": ("a" * 40, NOTHING),
    "measures.third.kind": (TWIN, NOTHING),
    "measures.third.model": ("resources/emoji/second_judge", NOTHING),
    "measures.third.revision": ("a" * 40, NOTHING),
    "probes.name-ladder.kind": (TWIN, AFTER_LADDER),
    "probes.name-ladder.paraphrases": (["one {}"], AFTER_LADDER),
    "probes.name-ladder.styles": ([], AFTER_LADDER),
    "probes.name-ladder.synonyms": (False, AFTER_LADDER),
    "probes.name-ladder.hypernyms": ("resources/other_things.tsv", AFTER_LADDER),
    "probes.name-ladder.hyponym_column": ("word", AFTER_LADDER),
    "probes.name-ladder.hypernym_column": ("word", AFTER_LADDER),
    "probes.name-ladder.prompts": (None, AFTER_LADDER),
    "probes.name-ladder.concept_column": ("word", AFTER_LADDER),
    "probes.name-ladder.prompt_column": ("other", AFTER_LADDER),
    "probes.again.kind": (f"{TWIN}-of-relearning", AFTER_PROBE),
    "probes.again.images": (3, AFTER_PROBE),
    "probes.again.benign": (False, AFTER_PROBE),
    "probes.again.benign_prompts": (["a dog"], AFTER_PROBE),
    "probes.again.steps": ([0, 50], AFTER_PROBE),
    "probes.again.batch": (3, AFTER_PROBE),
    "probes.again.learning_rate": (1.0e-3, AFTER_PROBE),
    "probes.again.reported_at": (20, AFTER_PROBE),
    "probes.sweep.kind": (f"{TWIN}-of-vocabulary-sweep", AFTER_WORDS),
    "probes.sweep.tokens": (30, AFTER_WORDS),
    "probes.sweep.steps": (2, AFTER_WORDS),
    "probes.sweep.kept": (2, AFTER_WORDS),
    "probes.sweep.prompt": ("one {}", AFTER_WORDS),
    "probes.sweep.names": (True, AFTER_WORDS),
    "evaluations.attacks.kind": (f"{TWIN}-of-attacks", {"attack_table"}),
    "evaluations.attacks.probes": (["again"], {"attack_table", "attack_pictures"}),
    "evaluations.attacks.clip": ("other", AFTER_CONTROLS),
    "evaluations.attacks.classifier": ("third", AFTER_CONTROLS),
    "evaluations.attacks.classes.table": ("resources/more_classes.tsv", AFTER_CONTROLS),
    "evaluations.attacks.classes.column": ("other", AFTER_CONTROLS),
    "evaluations.attacks.class_prompt": ("one {}", AFTER_CONTROLS),
    "evaluations.attacks.ghosts.table": ("resources/other_ghosts.tsv", AFTER_CONTROLS),
    "evaluations.attacks.ghosts.column": ("word", AFTER_CONTROLS),
    "evaluations.attacks.ghosts.attacked": (1, {"attack_table"}),
    "evaluations.attacks.search": ([1, 2], AFTER_WORDS | AFTER_PROBE),
    "evaluations.attacks.report": ([101, 102], AFTER_PROBE),
    "evaluations.attacks.controls.images": (7, AFTER_CONTROLS),
    "evaluations.attacks.controls.first_seed": (7, AFTER_CONTROLS),
    "evaluations.attacks.controls.share": (0.5, AFTER_CONTROLS),
    "evaluations.attacks.controls.least": (0.4, AFTER_CONTROLS),
    "evaluations.attacks.controls.random_unet": (False, {"attack_table"}),
}

# Each given file, what is written instead of what in it, and the steps that then run. Instead of nothing, it is added.

CARD, PICTURE = "README.md", "picture.png"  # beside a model's files
PIPELINE = "resources/emoji/pipeline"
CONTENTS: list[tuple[str, str, str, Steps]] = [
    # The concept table, which the suite of synonyms reads as well
    ("config/concepts.tsv", "ground", "street", AFTER_MOMENTS | AFTER_ANCHOR_IMAGES),
    ("config/concepts.tsv", "sky", "cloud", NOTHING),  # of a concept that no task names
    ("config/concepts.tsv", "ship\tobject", "ship\tperson", AFTER_MOMENTS | AFTER_IMAGES),
    ("config/concepts.tsv", "bird\tobject", "bird\tperson", NOTHING),
    ("config/concepts.tsv", "vessel", "yacht", AFTER_ROWS),
    ("config/concepts.tsv", "bird", "hawk", NOTHING),
    ("config/concepts.tsv", "", "horse\tobject\tsky\tpony\n", NOTHING),
    ("config/concepts.tsv", "ship\tobject", "horse\tobject\tsky\tpony\nship\tobject", NOTHING),
    ("config/concepts.tsv", "", "# reviewed\n", NOTHING),
    # Templates, of which three are used
    (f"{OWN_TEMPLATES}/object.txt", "a picture of", "a sketch of", AFTER_MOMENTS),
    (f"{OWN_TEMPLATES}/object.txt", "another {}", "yet another {}", NOTHING),
    (f"{OWN_TEMPLATES}/object.txt", "# of object", "\n# of things", NOTHING),
    (f"{OWN_TEMPLATES}/object.txt", "", "# the end\n", NOTHING),
    (f"{OWN_TEMPLATES}/style.txt", "a picture of", "a sketch of", NOTHING),
    ("resources/templates/style.txt", "a picture of", "a sketch of", AFTER_MOMENTS),
    ("resources/templates/object.txt", "a picture of", "a sketch of", NOTHING),
    (f"{OWN_TEMPLATES}/person.txt", "a picture of", "a sketch of", NOTHING),
    # Prompts of anchors' images, of which there are eight
    ("resources/templates/anchors.txt", "picture 8", "sketch 8", AFTER_ANCHOR_IMAGES),
    ("resources/templates/anchors.txt", "picture 9", "sketch 9", NOTHING),
    ("resources/templates/anchors.txt", "", "# the end\n", NOTHING),
    # Texts of priors: every byte counts, as they may be too many to be read when planning
    ("resources/captions.csv", "a ship 3", "a bird 3", AFTER_PRIOR),
    ("resources/captions.csv", "ship 3,x", "ship 3,y", AFTER_PRIOR),
    ("resources/names.txt", "Ada", "Eve", AFTER_PRIOR),
    ("resources/templates/names.txt", "at sea", "on land", AFTER_PRIOR),
    ("resources/words.txt", "sky", "wind", NOTHING),
    # Classes
    ("resources/classes.tsv", "bird\t", "hawk\t", AFTER_CLASSES),
    ("resources/classes.tsv", "", "horse\tpony\tx\t5\n", AFTER_CLASSES),
    ("resources/classes.tsv", "", "mule\tass\tx\t5\n", AFTER_CLASSES | AFTER_ROWS),  # of which scenes has a row
    ("resources/classes.tsv", "hound", "hunter", NOTHING),
    ("resources/classes.tsv", "\t4", "\t5", NOTHING),
    ("resources/classes.tsv", "", "# reviewed\n", NOTHING),
    # Suites of words and of rows
    ("resources/things.tsv", "ship\tvessel", "boat\tvessel", AFTER_ROWS),
    ("resources/things.tsv", "dog", "cat", NOTHING),  # of which no number is made
    ("resources/things.tsv", "", "horse\tpony\tx\t5\n", NOTHING),
    ("resources/things.tsv", "ship\tvessel", "horse\tpony\tx\t5\nship\tvessel", NOTHING),
    ("resources/things.tsv", "hound", "hunter", NOTHING),
    ("resources/things.tsv", "", "# reviewed\n", NOTHING),
    ("resources/reference.csv", "at sea 19", "at home 19", AFTER_QUALITY_ROWS),
    ("resources/reference.csv", "at sea 20", "at home 20", NOTHING),  # behind the twenty that are taken
    ("resources/reference.csv", "", ",a day at home,9,x\n", NOTHING),
    ("resources/reference.csv", "at sea 3,3,x", "at sea 3,3,y", NOTHING),
    ("resources/scenes.csv", "a dog", "the dog", AFTER_ROWS),
    ("resources/scenes.csv", "dog,pup", "cat,pup", AFTER_ROWS),
    ("resources/scenes.csv", "hound,3", "hound,5", AFTER_ROWS),
    ("resources/scenes.csv", "a mule", "the mule", NOTHING),  # of which no number is made,
    ("resources/scenes.csv", "3,4,5.0,6.0,64", "3,4,5.5,6.0,64", AFTER_ROWS),
    ("resources/scenes.csv", "3,4,5.0,6.0,64", "3,4,5.0,6.0,96", AFTER_ROWS),
    ("resources/scenes.csv", "3,4,5.0,6.0,64", "3,7,5.0,7.0,64", NOTHING),
    ("resources/scenes.csv", "128,y", "128,z", NOTHING),
    ("resources/scenes.csv", "", "dog,dog,a dog,one hound,5,6,5.0,6.0,64,64,128,y\n", AFTER_ROWS),
    ("resources/other.csv", "home", "work", NOTHING),
    # Real images
    ("resources/reference.zip", "1.png", "2.png", AFTER_REFERENCE),
    ("resources/other.zip", "1.png", "2.png", NOTHING),
    # Models: one byte of each file that is loaded, and what lies beside
    (f"{PIPELINE}/unet/diffusion_pytorch_model.safetensors", "weights", "weightz", AFTER_NETWORK),
    (f"{PIPELINE}/unet/config.json", "", "\n", AFTER_NETWORK),
    (f"{PIPELINE}/vae/diffusion_pytorch_model.safetensors", "weights", "weightz", AFTER_NETWORK),
    (f"{PIPELINE}/vae/config.json", "", "\n", AFTER_NETWORK),
    (f"{PIPELINE}/scheduler/scheduler_config.json", "", "\n", AFTER_NETWORK),
    (f"{PIPELINE}/model_index.json", "", "\n", AFTER_NETWORK),
    (f"{PIPELINE}/text_encoder/model.safetensors", "weights", "weightz", AFTER_BASE),
    (f"{PIPELINE}/text_encoder/config.json", "", "\n", AFTER_BASE),
    (f"{PIPELINE}/tokenizer/tokenizer.json", "", "\n", AFTER_BASE),
    (f"{PIPELINE}/tokenizer/tokenizer_config.json", "", "\n", AFTER_BASE),
    (f"{PIPELINE}/{CARD}", "", "A card", NOTHING),
    (f"{PIPELINE}/unet/{PICTURE}", "", "x", NOTHING),
    (f"resources/emoji/{HALF}", "", "half", NOTHING),
    ("resources/emoji/clip/model.safetensors", "weights", "weightz", AFTER_JUDGE),
    ("resources/emoji/clip/tokenizer.json", "", "\n", AFTER_JUDGE),
    (f"resources/emoji/clip/{CARD}", "", "A card", NOTHING),
    ("resources/emoji/clipseg/model.safetensors", "weights", "weightz", AFTER_MASKS),
    ("resources/emoji/clipseg/preprocessor_config.json", "", "\n", AFTER_MASKS),
    (f"resources/emoji/clipseg/{PICTURE}", "", "x", NOTHING),
    ("resources/emoji/detector/model.safetensors", "weights", "weightz", NOTHING),
    ("resources/emoji/sam/model.safetensors", "weights", "weightz", NOTHING),
    ("resources/other/pipeline/text_encoder/model.safetensors", "other", "others", NOTHING),
]

# The same in the second configuration, whose synonyms are in a table of their own.

UNUSUAL_CONTENTS: list[tuple[str, str, str, Steps]] = [
    ("config/concepts.tsv", "ground", "street", of_task(AFTER_MOMENTS)),
    ("config/concepts.tsv", "vessel", "yacht", NOTHING),
    ("config/concepts.tsv", "bird", "hawk", NOTHING),
    ("config/concepts.tsv", "", "horse\tobject\tsky\tpony\n", NOTHING),
    ("resources/synonyms.tsv", "vessel", "yacht", AFTER_ROWS),
    ("resources/captions.csv", "a ship 3", "a bird 3", NOTHING),
    ("resources/templates/object.txt", "a picture of", "a sketch of", of_task(AFTER_MOMENTS)),
    (f"{OWN_TEMPLATES}/object.txt", "a picture of", "a sketch of", NOTHING),
    (f"{OWN_TEMPLATES}/style.txt", "a picture of", "a sketch of", of_task(AFTER_MOMENTS)),
    ("resources/things.tsv", "dog\t", "cat\t", AFTER_ROWS),
    ("resources/things.tsv", "", "horse\tpony\tx\t5\n", NOTHING),  # which is no class
    ("resources/classes.tsv", "dog\t", "cat\t", AFTER_CLASSES | AFTER_ROWS),  # and a dog counts no more
    ("resources/other.csv", "home", "work", {"base:sample", "sample"}),
    ("resources/words.txt", "sky", "wind", of_task(AFTER_PRIOR)),
    ("resources/inception.pt", "a network", "no network", AFTER_FEATURES),
    ("resources/emoji/detector/model.safetensors", "weights", "weightz", of_task(AFTER_MASKS)),
    ("resources/emoji/sam/preprocessor_config.json", "", "\n", of_task(AFTER_MASKS)),
    ("resources/emoji/clipseg/model.safetensors", "weights", "weightz", NOTHING),
    (f"resources/other/{HALF}", "half", "halved", of_task(AFTER_NETWORK)),
    ("resources/other/pipeline/unet/diffusion_pytorch_model.safetensors", "other", "others", NOTHING),
    ("resources/other/pipeline/text_encoder/model.safetensors", "other", "others", of_task(AFTER_BASE)),
    (f"{PIPELINE}/text_encoder/model.safetensors", "weights", "weightz", NOTHING),
]

# Of the third: the published table that one of its own names.

SEVERAL_CONTENTS: list[tuple[str, str, str, Steps]] = [
    ("resources/paper.csv", "MACE,1,5", "MACE,1,6", {"beside_published"}),
    ("resources/paper.yaml", "source: somebody\n", "source: nobody\n", {"beside_published"}),
    ("resources/paper.yaml", "acc_e", "acc_s", {"beside_published"}),
    ("resources/paper.yaml", "somebody again", "nobody again", NOTHING),  # of a table that is not named
    ("resources/paper.yaml", "", "# reviewed\n", NOTHING),
]

# Each module of the library, and the steps that run when its code changes.

MODULES: dict[str, Steps] = {
    "tables/objects.py": TABLE,
    "tables/not_erased.py": TABLE,
    "tables/row.py": TABLE,
    "tables/quality.py": TABLE,
    "tables/known.py": TABLE,
    "tables/published.py": NOTHING,  # of a table that stands beside no published one
    "steps/table.py": TABLE,
    "measures/clip.py": AFTER_JUDGE,
    "pictures/figures.py": {"losses", "examples"},
    "pictures/gallery.py": {"gallery"},
    "steps/gallery.py": {"gallery"},
    "pictures/contact_sheets.py": {"mask_sheets"},
    "measures/stored.py": AFTER_JUDGE,
    "inputs/priors.py": AFTER_PRIOR,
    "inputs/coco.py": AFTER_PRIOR,
    "inputs/words.py": AFTER_PRIOR | AFTER_SAMPLING | AFTER_CLASSES,
    "steps/suite.py": NOTHING,
    "erasure/masks.py": AFTER_MASKS,
    "erasure/attention.py": AFTER_TRAINING,
    "erasure/closed_form.py": AFTER_TRAINING,
    "erasure/moments.py": AFTER_MOMENTS | AFTER_PRIOR,
    "bases/weights.py": AFTER_JOIN,
    "bases/sampling.py": AFTER_IMAGES | AFTER_SAMPLING,
    "edits/edit.py": AFTER_JOIN | AFTER_SAMPLING,
    "edits/export.py": NOTHING,
    "steps/images.py": AFTER_IMAGES,
    "steps/sample.py": AFTER_SAMPLING,
    "steps/edit.py": AFTER_JOIN,
    "steps/lora.py": AFTER_TRAINING,
    "steps/measure.py": AFTER_JUDGE - {"texts"},
    "steps/texts.py": AFTER_CLASSES,
    "methods/mace/loras.py": AFTER_TRAINING,
}
FRAME = ("records/records.py", "records/code.py", "messages.py", "jobs.py", "steps/job.py", "steps/failures.py")
PLANNING = ("plan.py", "config/planning.py", "config/resolve.py", "__main__.py")

CONFIGURATIONS: dict[str, Callable[[], dict]] = {
    "usual": usual,
    "unusual": unusual,
    "several": several,
    "attacked": attacked,
}
FLIPS = {"usual": KEYS, "unusual": UNUSUAL_KEYS, "several": SEVERAL_KEYS, "attacked": ATTACKED_KEYS}


ATTACKED_CONTENTS: list[tuple[str, str, str, Steps]] = [
    ("resources/ghosts.tsv", "yeti\t", "ogre\t", AFTER_CONTROLS),
    ("resources/ghosts.tsv", "snowman", "giant", NOTHING),
    ("resources/other_ghosts.tsv", "nessie", "kraken", NOTHING),
    ("resources/classes.tsv", "", "horse\tpony\tx\t5\n", AFTER_CONTROLS | AFTER_CLASSES),
    ("resources/other_things.tsv", "vessel", "yacht", AFTER_LADDER),
    ("resources/emoji/second_judge/model.safetensors", "weights", "weightz", AFTER_CONTROLS),
    ("resources/other/second_judge/model.safetensors", "other", "others", NOTHING),
]


@pytest.fixture(scope="module", autouse=True)
def _library(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A library with a twin of a plug-in in every room; Lethe's own templates are in the working directory."""
    with pytest.MonkeyPatch.context() as patch:
        folder = copy_library(tmp_path_factory.mktemp("library"), patch)
        shipped_in = {"methods": "mace/mace", "measures": "clip", "tables": "objects", "probes": "name-ladder"}
        for room, shipped in shipped_in.items():
            shutil.copy(folder / room / f"{shipped}.yaml", folder / room / f"{TWIN}.yaml")
            module = shipped.split("/")[0].replace("-", "_")
            (folder / room / f"{TWIN}.py").write_text(f"import lethe.{room}.{module}\n")
        for room, shipped in (("tables", "attacks"), ("probes", "relearning"), ("probes", "vocabulary-sweep")):
            shutil.copy(folder / room / f"{shipped}.yaml", folder / room / f"{TWIN}-of-{shipped}.yaml")
            module = shipped.replace("-", "_")
            (folder / room / f"{TWIN}_of_{module}.py").write_text(f"import lethe.{room}.{module}\n")
        patch.setattr(plugins, "LIBRARY", folder)
        patch.setattr(templates, "SHIPPED", Path(OWN_TEMPLATES))
        forget()
        yield
    forget()


def copy_library(where: Path, patch: pytest.MonkeyPatch) -> Path:
    """A copy of the library, whose code is the one that counts."""
    folder = shutil.copytree(code.LIBRARY / "lethe", where / "lethe", ignore=shutil.ignore_patterns("__pycache__"))
    patch.setattr(code, "LIBRARY", where)
    patch.setattr(code, "bare", BARE)
    return Path(folder)


BARE = cache(code.bare)  # of the same text it is the same


def forget() -> None:
    for function in (
        code.source_files,
        code.code_hash,
        code._imports,
        code._bare_file,
        plugins.kinds,
        plugins.manifest,
    ):
        function.cache_clear()


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working directory that no test writes to."""
    return make_folder(tmp_path_factory.mktemp("given"))


@pytest.fixture(autouse=True)
def _here(given: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(given)


@pytest.fixture
def own(given: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it as working directory."""
    folder = Path(shutil.copytree(given, tmp_path / "own"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture(scope="module")
def planned(given: Path, _library: None) -> dict[str, MadeBy]:
    """What makes the outputs of each configuration."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(given)
        return {name: made_by(configured()) for name, configured in CONFIGURATIONS.items()}


def replace_in(path: str, old: str, new: str) -> None:
    """Write something else instead of what stands in a file, or at its end; the file may be a new one."""
    file = Path(path)
    content = file.read_bytes() if file.exists() else b""
    assert old.encode() in content, f"{path} has no {old!r}"
    file.write_bytes(content.replace(old.encode(), new.encode()) if old else content + new.encode())


# What a change reruns


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_configurations_here_are_valid_and_say_all_that_has_a_default(name: str) -> None:
    config = CONFIGURATIONS[name]()
    assert check_config(config, made=("results/",)) == config


def test_the_table_names_every_key_of_the_configuration() -> None:
    assert KEYS.keys() == leaves(usual()).keys()
    assert UNUSUAL_KEYS.keys() <= leaves(unusual()).keys()
    assert SEVERAL_KEYS.keys() == leaves(several()).keys() - KEYS.keys()
    assert ATTACKED_KEYS.keys() == leaves(attacked()).keys() - KEYS.keys()
    assert leaves(SHIPPED).keys() <= leaves(usual()).keys()


NAMED = re.compile(
    r"^(bases|tasks|priors|suites|tables)\.[^.]+|(?<=published\.methods)\.[^.]+"
)  # entries that are of no plug-in


def test_the_configurations_here_have_every_key_of_the_schema() -> None:
    have = {NAMED.sub(r"\1.<name>", key) for configured in CONFIGURATIONS.values() for key in leaves(configured())}
    known = {NAMED.sub(r"\1.<name>", key) for c in (several(), attacked()) for key, _ in keys_of_schema(c)}
    known -= {f"tasks.<name>.concepts.{key}" for key in ("first", "kind")}  # a list of names once it is checked
    assert {key for key in known if not any(other.startswith(f"{key}.") for other in known)} == have | {
        f"tasks.<name>.{key.removeprefix('methods.')}"
        for key in have
        if key.startswith("methods.") and not key.endswith(".kind")
    }


@pytest.mark.parametrize(("name", "key"), [(name, key) for name, flips in FLIPS.items() for key in flips])
def test_a_key_reruns_what_depends_on_it(planned: dict[str, MadeBy], name: str, key: str) -> None:
    value, steps = FLIPS[name][key]
    config = CONFIGURATIONS[name]()
    assert leaves(config)[key] != value
    changed = put(config, key, value)
    if key in REFUSED:
        with pytest.raises(ConfigError):
            check_config(changed, made=("results/",))
    else:
        check_config(changed, made=("results/",))
    assert rerun(planned[name], changed) == steps


@pytest.mark.parametrize("key", [key for key in KEYS if key.startswith(MACE) and key != f"{MACE}kind"])
def test_a_tasks_own_setting_reruns_what_the_methods_would(planned: dict[str, MadeBy], key: str) -> None:
    value, steps = KEYS[key]
    for part in reversed(key.removeprefix(MACE).split(".")):
        value = {part: value}
    changed = put(usual(), "tasks.objects.mace", value)
    check_config(changed, made=("results/",))
    assert rerun(planned["usual"], changed) == steps
    assert made_by(changed).keys() == made_by(put(usual(), key, KEYS[key][0])).keys()


def test_a_seed_reruns_what_draws_and_a_device_nothing(planned: dict[str, MadeBy]) -> None:
    drawn = rerun(planned["usual"], put(usual(), "seed", 7))
    assert {"images", "anchor_images", "lora"} <= drawn
    assert not {"moments", "prior", "base:sample", "base", "texts", "reference"} & drawn
    for device in ("cpu", "cuda", "cuda:1", "mps"):
        assert rerun(planned["usual"], put(usual(), "device", device)) == NOTHING


@pytest.mark.parametrize(
    "key", [key for key in KEYS if key.startswith(("suites.", "evaluations.")) and "sample" in KEYS[key][1]]
)
def test_a_suite_is_sampled_again_alone(planned: dict[str, MadeBy], key: str) -> None:
    found = written(planned["usual"], put(usual(), key, KEYS[key][0]))
    sampled = {path.split("/")[-2] for path in found if "/samples/" in path}
    assert sampled == {key.split(".")[1] if key.startswith("suites.") else KEYS[key][0]} & usual()["suites"].keys()


@pytest.mark.parametrize(
    ("name", "path", "old", "new", "steps"),
    [
        *(("usual", *row) for row in CONTENTS),
        *(("unusual", *row) for row in UNUSUAL_CONTENTS),
        *(("several", *row) for row in SEVERAL_CONTENTS),
        *(("attacked", *row) for row in ATTACKED_CONTENTS),
    ],
)
def test_a_file_reruns_what_reads_what_changed_in_it(
    planned: dict[str, MadeBy], own: Path, name: str, path: str, old: str, new: str, steps: Steps
) -> None:
    replace_in(path, old, new)
    assert rerun(planned[name], CONFIGURATIONS[name]()) == steps


def test_the_tables_name_every_file_that_is_read() -> None:
    counted = {
        path for path, _, _, steps in CONTENTS + UNUSUAL_CONTENTS + SEVERAL_CONTENTS + ATTACKED_CONTENTS if steps
    }
    for configured in CONFIGURATIONS.values():
        jobs = plan_of(configured()).jobs
        given = {file.path for job in jobs for files in job.reads.values() for file in files if isinstance(file, Given)}
        assert given <= counted
    assert {f"{PIPELINE}/{name}" for name in loaded_files(Path(PIPELINE))} <= counted


# Spelling, places and times

SPELLINGS: dict[str, Callable[[str], str]] = {
    "dot": "./{}".format,
    "slashes": lambda path: path.replace("/", "//"),
    "whole": lambda path: str(Path.cwd() / path),
}


def paths_of(config: dict) -> dict[str, str | list[str]]:
    """Every key that holds the path of a file or model, or a list of them."""
    found = [
        f for f in walk(config, schema_of(config)) if {"file", "model"} & f.rule.keys() and isinstance(f.value, str)
    ]
    keys = {".".join(part for part in place if isinstance(part, str)) for place, _, _, _ in found}
    return {key: leaves(config)[key] for key in keys}


def reads(config: dict) -> dict[str, list[str]]:
    """The paths that the job of each output reads."""
    jobs = plan_of(config).jobs
    return {o: [f.path for files in job.reads.values() for f in files] for job in jobs for o in job.outputs.values()}


def judges(config: dict) -> list[str]:
    """The models of the measures behind each table, which protocols name."""
    tables = [plan_of(config).table(name).told.settings["measures"] for name in config["tables"]]
    return [told["measure"].get("model") for measures in tables for told in measures.values()]


def test_every_kind_of_path_is_spelled_here() -> None:
    keys = [*keys_of_schema(several()), *keys_of_schema(attacked())]
    known = {NAMED.sub(r"\1.<name>", key) for key, rule in keys if {"file", "model"} & rule.keys()}
    assert "priors.<name>.coco" in known
    spelled = {NAMED.sub(r"\1.<name>", key) for configured in CONFIGURATIONS.values() for key in paths_of(configured())}
    assert known == spelled


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_another_spelling_of_paths_is_the_same_path(planned: dict[str, MadeBy], name: str, spelling: str) -> None:
    """Neither a digest nor an input changes: Snakemake takes another spelling for another input."""
    config, spell = CONFIGURATIONS[name](), SPELLINGS[spelling]
    changed = config
    for key, value in paths_of(config).items():
        changed = put(changed, key, [spell(path) for path in value] if isinstance(value, list) else spell(value))
        assert leaves(changed)[key] != value
    assert rerun(planned[name], changed) == NOTHING
    assert reads(changed) == reads(config)
    assert judges(changed) == judges(config)


def test_a_file_that_is_yet_to_be_made_is_known_by_its_path(planned: dict[str, MadeBy]) -> None:
    key, path = "evaluations.objects.reference_images", "results/emoji_world/reference/images.zip"
    absent = put(usual(), key, path)
    assert rerun(planned["usual"], absent) == AFTER_REFERENCE
    assert rerun(made_by(absent), put(usual(), key, f"./{path}")) == NOTHING
    assert rerun(made_by(absent), put(usual(), key, "results/others.zip")) == AFTER_REFERENCE


def test_the_same_files_elsewhere_and_later_rerun_nothing(planned: dict[str, MadeBy], own: Path) -> None:
    config = usual()
    for key, path in paths_of(config).items():
        if isinstance(path, str) and Path(path).exists():
            elsewhere = own / "elsewhere" / path
            elsewhere.parent.mkdir(parents=True, exist_ok=True)
            if elsewhere.exists():
                pass
            elif key.endswith(".model"):
                elsewhere.mkdir()  # a folder of links, as in the cache of the hub
                for part in Path(path).iterdir():
                    (elsewhere / part.name).symlink_to(part.absolute())
            else:
                shutil.copyfile(path, elsewhere)  # of another time
            config = put(config, key, str(elsewhere))
    real = "evaluations.objects.reference_images"  # whose address tells where they are, as they may be yet to be made
    assert rerun(planned["usual"], config) == AFTER_REFERENCE
    assert rerun(planned["usual"], put(config, real, leaves(usual())[real])) == NOTHING


def test_a_changed_weight_of_a_linked_part_reruns_all_that_reads_it(planned: dict[str, MadeBy], own: Path) -> None:
    """F02 and F35: of the same size, as it is when one value of a matrix changes."""
    unet = Path(PIPELINE, "unet").rename(own / "unet")
    Path(PIPELINE, "unet").symlink_to(unet)
    assert rerun(planned["usual"], usual()) == NOTHING
    replace_in("unet/diffusion_pytorch_model.safetensors", "weights", "weightz")
    assert rerun(planned["usual"], usual()) == AFTER_NETWORK


@pytest.mark.parametrize(("place", "steps"), [("model", AFTER_BASE), ("revision", AFTER_BASE)])
def test_a_model_that_nobody_has_yet_is_known_by_where_it_is(place: str, steps: Steps) -> None:
    config = put(usual(), "bases.emoji.model", "owner/name")
    other = {"model": "owner/other", "revision": "a" * 40}[place]
    assert rerun(made_by(config), put(config, f"bases.emoji.{place}", other)) == steps
    assert rerun(made_by(config), put(config, "device", "cpu")) == NOTHING


# Which concepts, suites and tasks


def concepts_of(paths: set[str]) -> set[str]:
    """The concepts that lie in some outputs."""
    return {path.split("/concepts/")[1].split("/")[0] for path in paths if "/concepts/" in path}


def test_a_concept_reruns_for_itself_and_the_join(planned: dict[str, MadeBy], own: Path) -> None:
    replace_in("config/concepts.tsv", "ground", "street")
    assert concepts_of(written(planned["usual"], usual())) == {"ship"}


def test_a_further_concept_reruns_no_other(planned: dict[str, MadeBy]) -> None:
    more = put(usual(), "tasks.objects.concepts", ["bird", *usual()["tasks"]["objects"]["concepts"]])
    assert concepts_of(written(planned["usual"], more)) == {"bird"}
    assert rerun(planned["usual"], more) == {"moments"} | AFTER_IMAGES | AFTER_ROWS


def test_a_concept_that_goes_leaves_the_others(planned: dict[str, MadeBy]) -> None:
    fewer = put(usual(), "tasks.objects.concepts", ["ship"])
    assert rerun(planned["usual"], fewer) == {"losses", "mask_sheets", "edit"} | AFTER_ROWS


def test_the_order_of_concepts_reruns_nothing(planned: dict[str, MadeBy]) -> None:
    backwards = put(usual(), "tasks.objects.concepts", usual()["tasks"]["objects"]["concepts"][::-1])
    assert rerun(planned["usual"], backwards) == NOTHING


def test_a_renamed_concept_is_another_one(planned: dict[str, MadeBy], own: Path) -> None:
    replace_in("config/concepts.tsv", "ship", "boot")
    renamed = put(usual(), "tasks.objects.concepts", ["boot", *usual()["tasks"]["objects"]["concepts"][1:]])
    assert concepts_of(written(planned["usual"], renamed)) == {"boot"}


def test_one_more_concept_than_a_hundred_reruns_that_one_and_the_join(own: Path) -> None:
    names = [f"thing {k}" for k in range(101)]
    rows = "".join(f"{name}\tobject\tsky\t\n" for name in names)
    Path("config/concepts.tsv").write_text(f"concept\tkind\tanchor\tsynonyms\n{rows}")
    config = put(usual(), "suites.synonyms.table", "resources/synonyms.tsv")
    hundred = put(config, "tasks.objects.concepts", names[:100])
    before, more = made_by(hundred), put(config, "tasks.objects.concepts", names)
    assert len({path for path, (step, _) in before.items() if step == "images"}) == 100
    assert concepts_of(written(before, more)) == {"thing-100"}
    assert rerun(before, more) == {"moments"} | AFTER_IMAGES


def test_styles_have_full_frames_whatever_the_segmenter(planned: dict[str, MadeBy]) -> None:
    for key in ("masks.clipseg.threshold", "masks.segmenter", "masks.when_nothing_found"):
        assert concepts_of(written(planned["usual"], put(usual(), key, KEYS[key][0]))) == {"ship"}


def test_a_new_suite_is_sampled_alone(planned: dict[str, MadeBy]) -> None:
    config = put(usual(), "evaluations.objects.generality", "spare")
    found = written(planned["usual"], config)
    assert {path.split("/")[-2] for path in found if "/samples/" in path or "/measures/" in path} == {"spare"}
    assert rerun(planned["usual"], config) == AFTER_ROWS


def test_more_rows_sample_the_shards_that_grow(planned: dict[str, MadeBy]) -> None:
    more = put(usual(), "suites.reference.rows", 21)
    first, grown = plan_of(more).shards("objects", "reference")
    assert first == plan_of(usual()).shards("objects", "reference")[0]
    assert {path for path in written(planned["usual"], more) if "/samples/" in path} == {
        f"results/emoji/samples/{edit}/reference/{grown}.zip" for edit in ("original", "objects/mace")
    }


def test_tasks_and_bases_share_what_they_can(own: Path) -> None:
    """Another task on the base, a base of which the U-Net alone is another one, and one of other text encoders."""
    shutil.copytree(PIPELINE, "finetuned")
    replace_in("finetuned/unet/config.json", "", "\n")
    config = usual()
    config["bases"] = config["bases"] | {"finetuned": {"model": "finetuned", "revision": None}}
    before = made_by(config)
    task = config["tasks"]["objects"]
    config["tasks"] = {**config["tasks"], "again": task}
    of_join = {"losses", "mask_sheets"} | AFTER_JOIN
    assert rerun(before, config) == of_join
    config["tasks"]["again"] = task | {"concepts": ["ship"]}
    assert rerun(before, config) == of_join | AFTER_ROWS
    assert not [path for path in written(before, config) if "/original/reference/" in path]
    config["tasks"]["again"] = task | {"base": "finetuned"}
    assert rerun(before, config) == {"moments"} | AFTER_NETWORK
    config["tasks"]["again"] = task | {"base": "other"}
    assert rerun(before, config) == AFTER_BASE


def test_a_base_that_goes_leaves_its_priors_to_the_others(own: Path) -> None:
    shutil.copytree(PIPELINE, "finetuned")
    config = put(usual(), "bases.finetuned", {"model": "finetuned", "revision": None})
    before = made_by(config)
    config = put(put(config, "tasks.objects.base", "finetuned"), "bases.emoji", ABSENT)
    assert rerun(before, config) == AFTER_BASE - {"prior"}


def test_the_figure_can_be_left_out_and_needs_scores_only_for_many_concepts(own: Path) -> None:
    assert "examples" not in {step for step, _ in made_by(put(usual(), "figures.examples", None)).values()}
    names = [f"thing {k}" for k in range(30)]
    rows = "".join(f"{name}\tobject\tsky\t\n" for name in names)
    Path("config/concepts.tsv").write_text(f"concept\tkind\tanchor\tsynonyms\n{rows}")
    config = put(usual(), "suites.synonyms.table", "resources/synonyms.tsv")
    for erased, scores in ((names[:3], []), (names, ["results/tables/objects.json"])):
        plan = plan_of(put(config, "tasks.objects.concepts", erased))
        assert [file.path for file in plan.examples("objects").reads["scores"]] == scores


# Named entries: variants side by side, what tasks share, what is a task's own


def with_task(config: dict, name: str, **said: Any) -> dict:
    """The configuration with one more task, told as the first one but for what is said."""
    return put(config, f"tasks.{name}", config["tasks"]["objects"] | said)


def paths_made(jobs: Iterable[Job]) -> set[str]:
    """The outputs of some jobs."""
    return {path for job in jobs for path in job.outputs.values()}


def places_of_loras(made: Iterable[str]) -> list[str]:
    """Whose LoRAs some outputs are."""
    return sorted(path.split("/loras/")[0] for path in made if "/loras/" in path)


def test_variants_of_a_method_share_what_they_train_alike() -> None:
    """MACE three ways in one task: as usual, with its LoRAs summed up, and without a prior."""
    mace = usual()["methods"]["mace"]
    entries = {"mace": mace, "mace-naive": mace | {"fusion": "sum"}, "mace-no-prior": mace | {"prior": None}}
    config = put(put(usual(), "methods", entries), "tasks.objects.methods", list(entries))
    check_config(config, made=("results/",))
    plan = plan_of(config)
    usually, naive, other = (plan.loras("emoji", "objects", name) for name in entries)
    assert all(mine is same for mine, same in zip(usually, naive, strict=True))
    assert not paths_made(usually) & paths_made(other)
    assert not {job.digest for job in usually} & {job.digest for job in other}
    assert places_of_loras(paths_made(usually)) == places_of_loras(paths_made(other)) != []
    edits = [plan.edit("emoji", "objects", name) for name in entries]
    assert len({job.digest for job in edits}) == len(paths_made(edits)) == 3
    reads = [[file.path for file in edit.reads["loras"]] for edit in edits]
    assert reads[0] == reads[1] != reads[2]
    assert [step for step, _ in made_by(config).values()].count("losses") == 3


def test_a_method_without_fusion_reads_no_lora() -> None:
    config = put(usual(), "methods.mace.fusion", "none")
    assert plan_of(config).edit("emoji", "objects", "mace").reads["loras"] == []
    assert not {"lora", "task_lora", "losses", "anchor_images"} & {step for step, _ in made_by(config).values()}


def test_of_the_prompts_of_anchors_as_many_count_as_there_are_images(planned: dict[str, MadeBy]) -> None:
    """Whether they are in a list or in a file."""
    images = plan_of(usual()).anchor_images("emoji", plan_of(usual()).slugs['Hokusai\'s "wave"'])
    assert [file.content for file in images.reads["prompts"]] == [tuple(f"picture {k} of {{}}" for k in range(1, 9))]
    assert not {"prompt", "prompts", "anchor_prompts"} & images.told.settings["images"].keys()
    listed = put(usual(), "images.anchor_prompts.style", [f"picture {k} of {{}}" for k in range(1, 10)])
    told = plan_of(listed).anchor_images("emoji", plan_of(usual()).slugs['Hokusai\'s "wave"']).told
    assert (told.reads, len(told.settings["images"]["prompts"])) == ({}, 8)


@pytest.mark.parametrize("task", [False, True])
def test_a_lora_is_told_its_anchor_only_where_it_keeps_off_it(task: bool) -> None:
    """Under the default it is told neither of anchors nor of forms, and lies where it lay before there were any."""
    config, places = put(usual(), "methods.mace.lora_base", "task" if task else "concept"), []
    for form in ("mace", "supl"):
        plan = plan_of(put(config, "methods.mace.lora.form", form))
        jobs = plan.loras("emoji", "objects", "mace")
        places.append(paths_made(jobs))
        told = [(job.told.settings.get("anchor"), job.told.settings["lora"].get("form")) for job in jobs]
        of = [plan.concepts[slug].anchor for slug in plan.task_slugs("objects")]
        assert told == ([(None, None)] * 2 if form == "mace" else [(anchor, "supl") for anchor in of])
    assert not places[0] & places[1]


def test_adapters_are_of_concepts_and_shared() -> None:
    """By tasks, and by entries that differ in what only the edit depends on; a list of texts to keep is theirs too."""
    spm = {"kind": "spm", "anchors": {"prior": "words"}}
    others = {"gated": spm, "fused": spm | {"edit_form": "weights"}, "longer": spm | {"steps": 9}}
    config = put(put(usual(), "methods", others), "tasks.objects.methods", list(others))
    config = with_task(config, "again", concepts=["ship"], methods=["fused"])
    config = check_config(config, made=("results/",))
    plan, before = plan_of(config), made_by(config)
    gated, fused, longer = (plan.adapters("emoji", "objects", name) for name in others)
    assert all(mine is same for mine, same in zip(gated, fused, strict=True))
    assert set(plan.adapters("emoji", "again", "fused")) < set(gated)
    assert not paths_made(gated) & paths_made(longer)
    assert [file.path for file in gated[0].reads["anchors"]] == ["resources/words.txt"]
    assert {name for name, _ in before.values()} >= {"adapter", "losses", "edit"}
    assert not {"images", "masks", "moments"} & {name for name, _ in before.values()}
    trained = {"adapter", "losses"} | AFTER_JOIN
    assert rerun(before, put(config, "methods.longer.learning_rate", 1.0)) == trained
    assert rerun(before, put(config, "priors.words.templates", ["one {}"])) == trained
    assert rerun(before, put(config, "methods.fused.transport", "published-code")) == AFTER_JOIN
    assert rerun(before, put(config, "seed", 7)) == trained


def test_a_list_of_texts_may_be_those_of_a_prior(own: Path) -> None:
    """Its files are read by the edit itself: no second moment is computed, and its name does not count."""
    entry = {"retain": {"prior": "words"}}
    config = put(put(usual(), "methods", {"speed": entry}), "tasks.objects.methods", ["speed"])
    config = check_config(config, made=("results/",))
    before = made_by(config)
    assert {name for name, _ in before.values()} == {"base", "texts", "reference"} | AFTER_SAMPLING | {"edit"}
    edit = plan_of(config).edit("emoji", "objects", "speed")
    assert [file.path for file in edit.reads["retain"]] == ["resources/words.txt"]
    assert "retain" not in edit.told.settings["method"]
    for key, value in {"file": "resources/names.txt", "templates": ["one {}"]}.items():
        assert rerun(before, put(config, f"priors.words.{key}", value)) == AFTER_JOIN
    alike = put(config, "priors.alike", config["priors"]["words"])
    assert rerun(before, put(alike, "methods.speed.retain", {"prior": "alike"})) == NOTHING
    assert rerun(before, put(config, "methods.speed.retain", ["sky"])) == AFTER_JOIN
    fetched = put(config, "methods.speed.retain", {"prior": "coco"})
    assert rerun(before, fetched) == {"coco_annotations"} | AFTER_JOIN
    own.joinpath("resources/words.txt").write_text("sky\nsea\nwind\n")
    assert rerun(before, config) == AFTER_JOIN


@pytest.mark.parametrize("key", ["methods.mace.preserve_weight", "methods.mace.lora.steps"])
def test_configurations_that_differ_in_a_number_share_what_is_equal(planned: dict[str, MadeBy], key: str) -> None:
    """At a path of both is the same, but for an edit of the same name and what follows from it; no LoRA is of both."""
    before, after = planned["usual"], made_by(put(usual(), key, KEYS[key][0]))
    both = before.keys() & after.keys()
    of_edit = r"emoji/(edits/objects/mace[./]|(samples|measures)/objects/mace/)"
    named = re.compile(rf"results/({of_edit}|(tables|figures|galleries)/objects[._])")
    assert {path for path in both if before[path] != after[path]} == {path for path in before if named.match(path)}
    assert not places_of_loras(both)
    assert places_of_loras(before) == places_of_loras(after) != []


def measured_of_base(plan: Plan, table: str) -> dict[str, Job]:
    """The measures of the base as it is that a table reads, by their paths."""
    return {file.path: file.job for file in plan.table(table).reads["measures"] if "/original/" in file.path}


def test_evaluations_of_one_measure_measure_each_shard_once() -> None:
    config = with_task(usual(), "again", evaluation="other")
    plan = plan_of(put(config, "evaluations.other.clip", "judge"))
    first, second = (measured_of_base(plan, table) for table in ("objects", "again"))
    assert first.keys() == second.keys() != set()
    assert all(job is second[path] for path, job in first.items())
    apart = plan_of(config)
    first, second = (measured_of_base(apart, table) for table in ("objects", "again"))
    assert not first.keys() & second.keys()
    shards = [{file.path for job in jobs.values() for file in job.reads["shard"]} for jobs in (first, second)]
    assert shards[0] == shards[1] != set()


@pytest.mark.parametrize("before", ["", "ship\tobject"])
@pytest.mark.parametrize("concepts", [["ship"], ["ship", 'Hokusai\'s "wave"', "bird"]])
def test_a_new_tasks_concepts_leave_every_other_task_alone(own: Path, concepts: list[str], before: str) -> None:
    config = put(usual(), "tasks.objects.concepts", concepts)
    made = made_by(config)
    replace_in("config/concepts.tsv", before, f"horse\tobject\tsky\tpony\ngoat\tobject\tsky\tkid\n{before}")
    assert made_by(config) == made
    more = made_by(with_task(config, "farm", concepts=["horse", "goat"]))
    assert made.items() <= more.items()
    new = more.keys() - made.keys()
    assert {"sample", "measure", "base:sample", "base:measure", "table"} <= {more[path][0] for path in new}
    assert [path for path in new if "/samples/original/synonyms/" in path]


def test_a_task_samples_only_rows_that_its_evaluation_uses() -> None:
    plan = plan_of(several())
    wanted = {"objects": ({"ship", 'Hokusai\'s "wave"'}, {"dog"}), "birds": ({"bird"}, {"ship", "dog"})}
    for task, (erased, stay) in wanted.items():
        for suite, types in {"objects": erased, "synonyms": erased, "scenes": stay}.items():
            found = [plan.slices[suite, shard].types for shard in plan.shards(task, suite)]
            assert found
            assert all(set(plan.inputs.suites[suite]["type"]) & set(only) == types for only in found)
        sampled = {path for path in made_by(several()) if f"/samples/{task}/" in path}
        assert {path.split("/", 5)[-1] for path in sampled} == {
            f"{suite}/{shard}.zip"
            for suite in ("objects", "synonyms", "scenes", "reference")
            for shard in plan.shards(task, suite)
        }


def test_a_table_over_several_tasks_reads_the_measures_of_each() -> None:
    plan, apart = plan_of(several()), plan_of(put(several(), "tables", {}))
    assert [job.outputs["table"] for job in plan.tables] == ["results/tables/both.csv"]
    assert [job.outputs["table"] for job in apart.tables] == [f"results/tables/{t}.csv" for t in ("objects", "birds")]
    both, *each = ([file.path for file in job.reads["measures"]] for job in (*plan.tables, *apart.tables))
    assert set(both) == {path for paths in each for path in paths}
    assert len(both) == len(set(both)) < sum(map(len, each))  # what both measure of the base is read once
    for edit in ("original", "objects/mace", "birds/mace-naive"):
        assert any(f"/measures/{edit}/" in path for path in both)
    one = plan_of(put(several(), "tables.both.tasks", ["objects"]))
    assert [job.outputs["table"] for job in one.tables] == ["results/tables/both.csv", "results/tables/birds.csv"]


def test_a_table_has_a_picture_by_count_where_one_is_asked_for() -> None:
    (job,) = [job for job in plan_of(several()).figures if job.step.name == "counts"]
    assert job.told.settings["erased"] == [("objects", 2), ("birds", 1)]
    assert [file.path for file in job.reads["record"]] == ["results/tables/both.json"]
    without = plan_of(put(several(), "tables.both.figure", None))
    assert "counts" not in {job.step.name for job in without.figures}


def test_a_table_stands_beside_the_published_one_that_it_names() -> None:
    plan = plan_of(several())
    (job,) = [job for job in plan.figures if job.step.name == "beside_published"]
    assert job.told.settings["tasks"] == [["objects", ['Hokusai\'s "wave"', "ship"]], ["birds", ["bird"]]]
    assert job.told.settings["methods"] == {"mace": "MACE"}
    assert [file.path for file in job.reads["numbers"]] == ["results/tables/both.numbers.csv"]
    assert [file.path for file in job.reads["values"]] == ["resources/paper.csv"]
    ends = {f"results/tables/paper/both.{end}" for end in ("csv", "md", "tex")}
    assert set(job.outputs.values()) == ends <= set(plan.targets()["both"])
    without = plan_of(put(several(), "tables.both.published", None))
    assert "beside_published" not in {job.step.name for job in without.figures}


def test_what_an_edit_took_is_that_of_all_jobs_behind_it() -> None:
    plan = plan_of(put(several(), "tables.both.costs", True))
    (job,) = [job for job in plan.figures if job.step.name == "costs"]
    assert job.told.settings["edits"] == [["objects", "mace", 2], ["birds", "mace-naive", 1]]
    assert [file.path.split("/", 3)[-1] for file in job.reads["edits"]] == [
        "objects/mace.safetensors",
        "birds/mace-naive.safetensors",
    ]
    for edit, task, paths in zip(job.reads["edits"], ("objects", "birds"), job.told.aside["behind"], strict=True):
        slugs = plan.task_slugs(task)
        assert len(paths) == len(set(paths))
        of_concepts = {slug: {path.split("/")[4] for path in paths if f"/concepts/{slug}/" in path} for slug in slugs}
        assert all({"images.zip", "masks.zip", "moments.safetensors", "loras"} <= of for of in of_concepts.values())
        others = [path for path in paths if "/concepts/" not in path]
        assert edit.path in others
        assert all(path == edit.path or path.startswith("results/priors/") for path in others)
    assert "results/tables/both.costs.csv" in plan.targets()["both"]


def test_a_tables_name_stands_for_its_files_and_pictures() -> None:
    plan = plan_of(put(several(), "tasks.shown.evaluation", "objects"))
    both, shown = plan.targets().values()
    assert list(plan.targets()) == ["both", "shown"]
    assert {"results/tables/both.csv", "results/tables/both.json", "results/tables/both.png"} <= set(both)
    assert {"results/figures/objects.png", "results/figures/birds.png"} <= set(both)
    assert {"results/tables/shown.csv", "results/figures/shown.png"} <= set(shown)
    assert not {path for path in both if "shown" in path}
    assert {*both, *shown} == paths_made([*plan.tables, *plan.figures])


def test_a_task_without_an_evaluation_samples_its_suites_and_has_no_table() -> None:
    plan = plan_of(put(put(several(), "tables", {}), "tasks", {"shown": several()["tasks"]["shown"]}))
    assert plan.tables == []
    assert paths_made(plan.samples) == {
        f"results/emoji/samples/{edit}/spare/{shard}.zip"
        for edit in ("original", "shown/mace-naive")
        for shard in plan.shards("shown", "spare")
    }
    made = {job.step.name for job in plan.jobs}
    assert {"edit", "lora", "sample", "examples"} <= made
    assert not {"measure", "texts", "reference", "table"} & made


def test_a_tasks_own_settings_are_that_tasks_alone() -> None:
    config = with_task(usual(), "again")
    before, own = made_by(config), put(config, "tasks.again.mace", {"lamb": 3.0})
    mine, its = plan_of(own).recipe("objects", "mace"), plan_of(own).recipe("again", "mace")
    assert {plan_of(config).recipe(task, "mace") for task in ("objects", "again")} == {mine}
    assert mine != its
    found = written(before, own)
    assert places_of_loras(found)
    assert all("/again" in path or f"/loras/{its}/" in path for path in found)
    join = written(before, put(config, "tasks.again.mace", {"fuse_preserve_scale": 0.5}))
    assert join
    assert all("/again" in path and "/loras/" not in path for path in join)


def test_two_shards_of_equal_rows_stay_two(own: Path) -> None:
    Path("resources/other.csv").write_text("type,prompt,evaluation_seed\n" + "ship,a ship,1\n" * 24)
    config = put(usual(), "tasks.objects.suites", ["spare"])
    plan = plan_of(config)
    jobs = [plan.sample("emoji", "original", "spare", shard) for shard in plan.shards("objects", "spare")]
    assert len(jobs) == len(paths_made(jobs)) == len({job.digest for job in jobs}) == 2
    assert [job.told.aside["shard"] for job in jobs] == [0, 1]
    assert paths_made(jobs) <= made_by(config).keys()


def test_a_suite_to_be_fetched_has_its_shards_before_and_after(own: Path) -> None:
    """What lies there already changes no name: the address of a shard is what its suite says, and its place."""
    config = put(usual(), "tasks.objects.suites", ["drawn", "i2p"])
    plan, before = plan_of(config), made_by(config)
    assert {suite: len(plan.shards("objects", suite)) for suite in ("drawn", "i2p")} == {"drawn": 3, "i2p": 2}
    names = [name for suite in ("drawn", "i2p") for name in plan.shards("objects", suite)]
    assert len(set(names)) == 5
    for path in (COCO[1], "results/i2p/i2p_benchmark.csv"):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text("something")
    assert made_by(config) == before
    Path("mine.json").write_text("mine")
    mine = plan_of(put(config, "suites.drawn.coco", "mine.json"))
    assert mine.shards("objects", "drawn") == plan.shards("objects", "drawn")
    assert [file.path for file in mine.suite("drawn").reads["source"]] == ["mine.json"]
    Path("mine.json").write_text("another")
    changed = plan_of(put(config, "suites.drawn.coco", "mine.json")).suite("drawn")
    assert len({changed.digest, mine.suite("drawn").digest, plan.suite("drawn").digest}) == 3


def test_a_suites_table_is_made_of_what_counts_in_its_rows(own: Path) -> None:
    digest = {name: plan_of(usual()).suite(name).digest for name in ("objects", "scenes")}
    replace_in("resources/things.tsv", "hound", "hunter")
    replace_in("resources/scenes.csv", "128,y", "128,z")
    assert {name: plan_of(usual()).suite(name).digest for name in digest} == digest
    replace_in("resources/things.tsv", "dog", "cat")
    replace_in("resources/scenes.csv", "a puppy", "the puppy")
    assert all(plan_of(usual()).suite(name).digest != before for name, before in digest.items())


@pytest.mark.parametrize("name", ["sd14", "sd21", "sdxl"])
def test_configurations_of_bases_of_the_hub_plan_without_a_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was asked")

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(socket.socket, "connect", refused)
    monkeypatch.setattr(socket, "getaddrinfo", refused)
    monkeypatch.setattr(templates, "SHIPPED", ROOT / "workflow" / "lethe" / "templates")
    path = ROOT / "config" / f"{name}.yaml"
    config = check_config(yaml.safe_load(path.read_text()), files=[path], made=("results/",))
    inputs = read_inputs(config)
    check_plan(config, inputs)
    plan = Plan(config, inputs, locate=lambda *_: None, hash_file=kept_hash)
    steps = {job.step.name for job in plan.jobs}
    assert {"base", "coco_annotations", "prior", "moments", "task_lora", "edit", "measure", "table"} <= steps
    assert {job.outputs["table"] for job in plan.tables} == {"results/tables/cifar10.csv"}
    recipes = {plan.recipe(task, "mace") for task in config["tasks"]}
    assert len(recipes) == len(config["tasks"]) == 3  # each class has a lamb of its own


# The library's code


@pytest.fixture
def library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A copy of the library, to write to."""
    folder = copy_library(tmp_path, monkeypatch)
    forget()
    yield folder
    monkeypatch.undo()
    forget()


def test_the_same_code_elsewhere_reruns_nothing(planned: dict[str, MadeBy], library: Path) -> None:
    for name, configured in CONFIGURATIONS.items():
        assert rerun(planned[name], configured()) == NOTHING


@pytest.mark.parametrize("module", MODULES)
def test_a_module_reruns_the_steps_that_import_it(planned: dict[str, MadeBy], library: Path, module: str) -> None:
    with (library / module).open("a") as file:
        file.write("\nchanged = 1\n")
    assert rerun(planned["usual"], usual()) == MODULES[module]


def test_the_frame_of_steps_and_what_plans_them_rerun_nothing(planned: dict[str, MadeBy], library: Path) -> None:
    for module in FRAME + PLANNING:
        with (library / module).open("a") as file:
            file.write("\nchanged = 1\n")
    for name, configured in CONFIGURATIONS.items():
        assert rerun(planned[name], configured()) == NOTHING


def test_comments_and_docstrings_rerun_nothing(planned: dict[str, MadeBy], library: Path) -> None:
    for path in library.rglob("*.py"):
        text = re.sub(r'^( *)"""(?=\S)', r'\1"""Another word. ', path.read_text(), flags=re.MULTILINE)
        path.write_text(f"# a comment\n{text}\n\n# and another\n")
    for name, configured in CONFIGURATIONS.items():
        assert rerun(planned[name], configured()) == NOTHING


# What a digest and a command hold


def every_job() -> list[Job]:
    """The jobs of all configurations, of one that asks for costs, and of one whose method trains adapters."""
    adapting = put(put(usual(), "methods", {"spm": {"anchors": {"prior": "words"}}}), "tasks.objects.methods", ["spm"])
    configurations = [configured() for configured in CONFIGURATIONS.values()]
    configurations.append(put(several(), "tables.both.costs", True))
    configurations.append(check_config(adapting, made=("results/",)))
    return [job for config in configurations for job in plan_of(config).jobs]


def of_digest(job: Job, **parts: Any) -> str:
    """The digest of a job of which some parts are others."""
    other = copy.copy(job)
    vars(other).pop("digest", None)
    vars(other).update(parts)
    return other.digest


def another(file: Given | Made) -> Given | Made:
    """The same file with another content: given, or made by a job that is told something else."""
    if isinstance(file, Given):
        return replace(file, content="another")
    job = copy.copy(file.job)
    vars(job).pop("digest", None)
    job.told = replace(job.told, settings={**job.told.settings, "more": 1})
    return Made(job, file.output)


def test_every_step_is_looked_at() -> None:
    assert {job.step.name for job in every_job()} == {
        value.name for value in vars(Plan).values() if isinstance(value, Step)
    }


def test_every_file_and_setting_takes_part_in_the_digest() -> None:
    """One that a digest drops would leave an output of another make in place, silently."""
    for job in every_job():
        for name, files in job.reads.items():
            for index, file in enumerate(files):
                others = [*files[:index], another(file), *files[index + 1 :]]
                assert of_digest(job, reads={**job.reads, name: others}) != job.digest, (job.step.name, name)
            assert of_digest(job, reads={**job.reads, name: [*files, Given("more", "x")]}) != job.digest
        for name in job.told.settings:
            told = replace(job.told, settings={**job.told.settings, name: "another"})
            assert of_digest(job, told=told) != job.digest, (job.step.name, name)


def test_a_file_without_a_content_is_a_suites_whose_rows_are_told() -> None:
    for job in every_job():
        for name, files in job.reads.items():
            if any(isinstance(file, Given) and file.content is None for file in files):
                assert (job.step.name, name) == ("sample", "source")
                assert re.fullmatch("[0-9a-f]{64}", job.told.settings["digest"])


def test_a_command_names_every_file_and_setting() -> None:
    for job in every_job():
        words = shlex.split(job.command)
        assert shlex.join(words) == job.command
        assert words[:4] == ["python", "-m", "lethe.frame.start", job.step.module]
        assert json.loads(words[words.index("--settings") + 1]) == json.loads(
            json.dumps({**job.told.settings, **job.told.aside, "made_by": job.digest})
        )
        options = [index for index, word in enumerate(words) if word in ("--read", "--out")]
        said = {tuple(words[a : a + 2]): words[a + 2 : b] for a, b in pairwise([*options, len(words)])}
        assert said == {
            **{("--read", name): [file.path for file in files] for name, files in job.reads.items()},
            **{("--out", name): [path] for name, path in job.outputs.items()},
        }
