# Loads and checks the configuration; small lookups that the rules share.

import hashlib
import os
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.exceptions import WorkflowError

LIBRARY = Path(workflow.basedir) / "workflow"
sys.path.insert(0, str(LIBRARY))
shell.prefix(f"export PYTHONPATH='{LIBRARY}' HF_HUB_DISABLE_TELEMETRY=1; ")

from lethe.concepts import read_concepts
from lethe.priors import prior_files
from lethe.provenance import code_hash, fingerprint, sha256_of, text_fingerprint
from lethe.settings import check_config, encode_argument, load_schema, mask_settings
from lethe.suites import rows_digest, shard_count, shard_rows, suite_rows

try:
    check_config(
        config,
        load_schema(LIBRARY / "schemas" / "config.schema.yaml"),
        source=", ".join(os.path.relpath(path) for path in workflow.configfiles),
        files=workflow.configfiles,
        made=("results/",),
    )
    CONCEPTS = {concept.slug: concept for concept in read_concepts(Path(config["concepts"]))}
    SUITES = {name: suite_rows(suite) for name, suite in config["suites"].items()}
except ValueError as error:
    raise WorkflowError(str(error)) from None

SLUGS = {concept.name: slug for slug, concept in CONCEPTS.items()}


wildcard_constraints:
    base=r"[^/]+",
    concept=r"[^/]+",
    prior=r"[^/]+",
    text=r"[0-9a-f]{16}",
    task=r"[^/]+",
    method=r"[^/]+",
    suite=r"[^/]+",
    shard=r"\d{4}",
    edit=r"original|[^/]+/[^/]+",


def code(step):
    """A digest of the library modules that a step depends on; as a parameter it reruns the step when they change.

    As inputs they would do the same, at the cost of a dozen files to look up for every job of a large run.
    """
    return code_hash(f"lethe.steps.{step}")


@cache
def model_content(model, revision):
    """What a model's content is: a fingerprint of its folder, or a hub id with its commit."""
    return fingerprint(model) if Path(model).is_dir() else f"{model}@{revision}"


def base_settings(name):
    """What identifies a base: where it is, which files, and what its content is."""
    base = config["bases"][name]
    return dict(name=name, variant=None, fingerprint=model_content(base["model"], base["revision"])) | base


BASES = {name: base_settings(name) for name in config["bases"]}
TEXTS = {name: text_fingerprint(base["model"], base["revision"], base["variant"]) for name, base in BASES.items()}


def settings(wildcards, **values):
    """A step's settings as one shell-safe argument, with the base and the device if the rule has a base."""
    common = dict(base=BASES[wildcards.base], device=config["device"], precision=config["precision"])
    return encode_argument(common | values)


def concept_settings(wildcards, fields=("name", "kind"), **values):
    """The same for a rule about one concept, with just the fields of the concept that it reads, and the seed."""
    concept = {field: getattr(CONCEPTS[wildcards.concept], field) for field in fields}
    return settings(wildcards, concept=concept, seed=config["seed"], **values)


def task_slugs(wildcards):
    """Slugs of a task's concepts, sorted, so that their order in the configuration does not matter."""
    return sorted(SLUGS[name] for name in config["tasks"][wildcards.task]["concepts"])


def templates(wildcards):
    """The template file for the kind of a rule's concept."""
    return config["templates"][CONCEPTS[wildcards.concept].kind]


def shards(suite):
    """Names of a suite's shards."""
    return [f"{k:04d}" for k in range(shard_count(len(SUITES[suite]), config["sampling"]["shard_size"]))]


@cache
def model_mb(model):
    """Size of a model folder's weights; a hub id has none before its download, so that of Stable Diffusion 1.x."""
    if not Path(model).is_dir():
        return 4300
    return sum(path.stat().st_size for path in Path(model).rglob("*.safetensors")) >> 20


def growing(amount, *models):
    """A resource that doubles with every attempt, since a cluster ends a job that needs more of it than it asked for.

    `models` are functions of the wildcards that name models to load: for each, twice its size is added to `amount`, in
    MB, since weights stored in half precision are loaded in full.
    """

    def asked(wildcards, attempt):
        return (amount + sum(2 * model_mb(model(wildcards)) for model in models)) * 2 ** (attempt - 1)

    return asked


def base_model(wildcards):
    return config["bases"][wildcards.base]["model"]


GPUS = int(config["device"] != "cpu")  # that a job with a model to run asks for


def edits(task):
    """The base as it is, then every method's edit of a task."""
    return {"original": "original"} | {method: f"{task}/{method}" for method in config["tasks"][task]["methods"]}
