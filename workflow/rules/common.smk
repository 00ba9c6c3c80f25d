# Loads and checks the configuration; small lookups that the rules share.

import gc
import hashlib
import inspect
import json
import os
import shlex
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import yaml
from snakemake.common import overwrite_function_params
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.resources import Resource

LIBRARY = Path(workflow.basedir) / "workflow"
sys.path.insert(0, str(LIBRARY))
shell.prefix(f"export PYTHONPATH={shlex.quote(str(LIBRARY))} HF_HUB_DISABLE_TELEMETRY=1; ")

from lethe.concepts import read_concepts
from lethe.examples import shown_columns
from lethe.planning import check_plan, read_classes, read_suites, remarks
from lethe.priors import prior_files
from lethe.provenance import code_hash, content_hash, fingerprint, python_problem, sha256_of, text_fingerprint
from lethe.settings import ROLES, check_config, encode_argument, load_schema, mask_settings
from lethe.suites import shard_count, shard_digests

try:
    source = ", ".join(os.path.relpath(path) for path in workflow.configfiles)
    check_config(
        config,
        load_schema(LIBRARY / "schemas" / "config.schema.yaml"),
        source=source,
        files=workflow.configfiles,
        made=("results/",),
    )
    CONCEPTS = {concept.slug: concept for concept in read_concepts(Path(config["concepts"]))}
    SUITES, CLASSES = read_suites(config, source), read_classes(config, source)
    if workflow.is_main_process:  # and not in the process of each job, for which all this was said
        check_plan(config, list(CONCEPTS.values()), SUITES, CLASSES, source)
        for remark in remarks(config, list(CONCEPTS.values()), SUITES, CLASSES):
            logger.warning(remark)
except ValueError as error:
    raise WorkflowError(str(error)) from None

SLUGS = {concept.name: slug for slug, concept in CONCEPTS.items()}

if not workflow.deployment_settings.deployment_method and (problem := python_problem(sys.executable)):
    raise WorkflowError(problem)


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


# A plan of ten thousand jobs is millions of objects that stay: to look through them for cycles takes a tenth of it and
# frees nothing. The Snakefile turns this on again when jobs start.
gc.disable()


def quick(function):
    """The function, with its parameters noted: Snakemake asks `inspect` for them several times for every job, which
    takes longer than what the functions of these rules do."""
    overwrite_function_params(function, inspect.signature(function).parameters)
    return function


quick(Resource.evaluate)  # through which it calls the functions of resources


def made_by(step, *parts):
    """Digest of how a file is made: the code of the step, its settings, and the same of everything that it reads.

    Each rule has it as a parameter, so a change anywhere before a file makes it again. Snakemake alone would not see
    every change: it compares the parameters of a job only while its output is there, and a job that failed has none,
    so what was made from its last output would count as current.
    """
    return hashlib.sha256(json.dumps([code_hash(f"lethe.steps.{step}"), *parts]).encode()).hexdigest()


def of(function):
    """A function of names (of a base, a concept, ...) as one of the wildcards of that name; **values are left out."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return quick(lambda wildcards: function(*(getattr(wildcards, name) for name in names)))


@cache
def content(path):
    """Digest of a given file or folder. As an input it is ancient: this, and no time of a checkout, decides whether to
    rerun."""
    if Path(path).is_dir():
        return content_hash(path)
    return sha256_of(path) if Path(path).is_file() else path


def check_writable(folder):
    """Refuse to start where the first job would fail to write."""
    if Path(folder).exists() and not os.access(folder, os.W_OK):
        raise WorkflowError(
            f"{Path(folder).absolute()} cannot be written: mount it writable, or change its owner or mode"
        )


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


def settings(base, **values):
    """The settings of a step that works on a base, as one shell-safe argument."""
    common = dict(base=BASES[base], device=config["device"], precision=config["precision"])
    return encode_argument(common | values)


def concept_settings(base, concept, fields=("name", "kind"), **values):
    """The same for a rule about one concept, with just the fields of the concept that it reads, and the seed."""
    known = {field: getattr(CONCEPTS[concept], field) for field in fields}
    return settings(base, concept=known, seed=config["seed"], **values)


@cache
def task_slugs(task):
    """Slugs of a task's concepts, sorted, so that their order in the configuration does not matter."""
    return sorted(SLUGS[name] for name in config["tasks"][task]["concepts"])


def templates(concept):
    """The template file for a concept's kind."""
    return config["templates"][CONCEPTS[concept].kind]


def given_templates(concept):
    """The same as an input."""
    return ancient(templates(concept))


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

    @quick
    def asked(wildcards, attempt):
        return (amount + sum(2 * model_mb(model(wildcards)) for model in models)) * 2 ** (attempt - 1)

    return asked


def base_model(wildcards):
    return config["bases"][wildcards.base]["model"]


GPUS = int(config["device"] != "cpu")  # that a job with a model to run asks for


def edits(task):
    """The base as it is, then every method's edit of a task."""
    return {"original": "original"} | {method: f"{task}/{method}" for method in config["tasks"][task]["methods"]}
