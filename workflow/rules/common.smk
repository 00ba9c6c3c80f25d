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
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger

LIBRARY = Path(workflow.basedir) / "workflow"
sys.path.insert(0, str(LIBRARY))
shell.prefix(f"export PYTHONPATH={shlex.quote(str(LIBRARY))} HF_HUB_DISABLE_TELEMETRY=1; ")

from lethe.config.cluster import refusal
from lethe.inputs.concepts import read_concepts
from lethe.pictures.examples import shown_columns
from lethe.config.planning import check_plan, read_classes, read_suites, remarks
from lethe.inputs.priors import prior_files
from lethe.inputs.templates import read_templates
from lethe.records.fingerprints import KEPT, KeptHashes, fingerprint, text_fingerprint
from lethe.bases.folder import base_folder, cached_folder, loaded_files, model_folder
from lethe.records.code import code_hash, python_problem
from lethe.records.records import hash_of, notes
from lethe.records.rerun_notes import renew_notes
from lethe.plan import PLACES, Argument
from lethe.config.checks import ROLES, check_config, load_schema
from lethe.config.resolve import mask_settings, read_overrides
from lethe.inputs.suites import shard_count, shard_digests

if not workflow.configfiles:
    raise WorkflowError("no configuration was read; name one, as in --configfile config/config.yaml")
read_overrides(config, workflow.config_settings.config)

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


def made_by(step, *parts):
    """Digest of how a file is made: the code of the step, its settings, and the same of everything that it reads.

    Each rule has it as a parameter, so a change anywhere before a file makes it again. Snakemake alone would not see
    every change: it compares the parameters of a job only while its output is there, and a job that failed has none,
    so what was made from its last output would count as current.
    """
    known = [code_hash(f"lethe.steps.{step}"), *parts]
    return hashlib.sha256(json.dumps(known, default=lambda part: part.decisive).encode()).hexdigest()


@cache
def look_back():
    """Once, as soon as there is a plan to make: let the records of what is there decide, and say what they cannot."""
    if not workflow.is_main_process:
        return
    for sentence in renew_notes(Path("results"), Path(".snakemake")):
        logger.warning(sentence)
    if not {RerunTrigger.PARAMS, RerunTrigger.MTIME} <= set(workflow.rerun_triggers):
        logger.warning(
            "rerun-triggers leaves out params or mtime, so files made with other settings count as current; "
            "take it out of your profile or command, or run with --forceall"
        )


def of(function):
    """A function of names (of a base, a concept, ...) as one of the wildcards of that name; **values are left out."""
    parameters = inspect.signature(function).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]

    def of_wildcards(wildcards):
        look_back()
        return function(*(getattr(wildcards, name) for name in names))

    return of_wildcards


def told(settings_of, made_by_of):
    """What a job's step is told, as a function of wildcards: its settings, and how its files are made."""
    settings_of, made_by_of = of(settings_of), of(made_by_of)
    return lambda wildcards: settings_of(wildcards).made_by(made_by_of(wildcards))


@cache
def content(path):
    """Digest of a given file or folder. As an input it is ancient: this, and no time of a checkout, decides whether to
    rerun."""
    return hash_of(path) if Path(path).exists() else path


def check_writable(folder):
    """Refuse to start where the first job would fail to write."""
    if Path(folder).exists() and not os.access(folder, os.W_OK):
        raise WorkflowError(
            f"{Path(folder).absolute()} cannot be written: mount it writable, or change its owner or mode"
        )


HASHES = KeptHashes(KEPT, told=logger.info)


def check_cluster():
    """Say what SLURM has against the jobs of this run, and do not start where that is final."""
    if workflow.executor_plugin.name != "slurm":
        return
    jobs = [job for job in workflow.dag.needrun_jobs() if not job.is_local]
    requests = ((job.rule.name, dict(job.resources.items())) for job in jobs)
    problem = refusal(requests)
    if problem and problem.final:
        raise WorkflowError(problem.sentence)
    if problem:
        logger.warning(problem.sentence)


@cache
def folder_of(model, revision, variant=None, key=""):
    """The folder of a model: itself, or where the hub keeps it, downloaded unless this is but a look at the plan."""
    if found := cached_folder(model, revision, variant):
        return found
    if workflow.is_main_process and (workflow.executor_plugin is None or workflow.dryrun):
        logger.warning(f"{key}: {model} is downloaded when the run starts; until then nobody knows its content.")
        return None
    try:
        if key.startswith("bases."):
            return base_folder(model, revision, variant=variant, key=key)
        return model_folder(model, revision, key=key)
    except ValueError as error:
        raise WorkflowError(str(error)) from None


@cache
def identified(model, revision, variant=None, key=""):
    """What identifies the model at a key of the configuration: where it is, which files, and what their content is."""
    place, where = dict(model=model, revision=revision, variant=variant), folder_of(model, revision, variant, key)
    content = fingerprint(where, variant=variant, hash_of=HASHES) if where else f"{model}@{revision} {variant}"
    return place | dict(fingerprint=content)


@cache
def base_settings(name):
    """What identifies a base: its name, and where and what the pipeline is."""
    return dict(name=name) | identified(**config["bases"][name], key=f"bases.{name}.model")


@cache
def text_of(name):
    """Which text encoders a base has, in 16 hex digits."""
    base = base_settings(name)
    if where := folder_of(base["model"], base["revision"], base["variant"], f"bases.{name}.model"):
        return text_fingerprint(where, variant=base["variant"], hash_of=HASHES)
    return hashlib.sha256(base["fingerprint"].encode()).hexdigest()[:16]


def settings(base, **values):
    """The settings of a step that works on a base."""
    common = dict(base=base_settings(base), device=config["device"], precision=config["precision"])
    return Argument(common | values)


def concept_settings(base, concept, fields=("name", "kind"), **values):
    """The same for a rule about one concept, with just the fields of the concept that it reads."""
    known = {field: getattr(CONCEPTS[concept], field) for field in fields}
    return settings(base, concept=known, **values)


@cache
def task_slugs(task):
    """Slugs of a task's concepts, sorted, so that their order in the configuration does not matter."""
    return sorted(SLUGS[name] for name in config["tasks"][task]["concepts"])


def templates(concept):
    """The template file for a concept's kind."""
    return config["templates"][CONCEPTS[concept].kind]


@cache
def used_templates(concept):
    """The prompts of that file that training uses; lines behind them, and comments, decide nothing."""
    return read_templates(Path(templates(concept)))[: config["mace"]["templates_used"]]


def given_templates(concept):
    """The same as an input."""
    return ancient(templates(concept))


def shards(suite):
    """Names of a suite's shards."""
    return [f"{k:04d}" for k in range(shard_count(len(SUITES[suite]), config["sampling"]["shard_size"]))]


@cache
def model_mb(model):
    """Size of a model folder's weights; a hub id has none before its download, so that of Stable Diffusion 1.x."""
    where = cached_folder(model, None)
    if where is None:
        return 4300
    weights = [path for path in loaded_files(where).values() if path.suffix == ".safetensors"]
    return sum(path.stat().st_size for path in weights) >> 20


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
