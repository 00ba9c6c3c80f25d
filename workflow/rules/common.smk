# Loads and checks the configuration, plans the jobs (workflow/lethe/plan.py), and says how a rule runs one.

import gc
import os
import re
import shlex
import sys
from functools import cache
from importlib.util import find_spec
from inspect import signature
from pathlib import Path

import yaml
from snakemake.common.configfile import load_configfile
from snakemake.exceptions import WorkflowError
from snakemake.logging import logger
from snakemake.settings.enums import RerunTrigger
from snakemake.settings.types import DeploymentMethod
from snakemake.utils import update_config

# Of a clone the library lies beside the rules. Fetched from elsewhere, as by snakedeploy, these find the installed one.
BESIDE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True)).parent
LIBRARY = BESIDE if (BESIDE / "lethe").is_dir() else None
if LIBRARY:
    sys.path.insert(0, str(LIBRARY))
elif not find_spec("lethe"):
    raise WorkflowError("the rules were fetched without the library; install its release of the same number by pip")

from lethe.bases.folder import base_folder, cached_folder, loaded_files, model_folder
from lethe.config.checks import check_config
from lethe.config.cluster import refusal
from lethe.config.planning import check_plan, read_inputs, remarks
from lethe.config.resolve import read_overrides
from lethe.config.schema import merged
from lethe.frame.start import WARM
from lethe.frame.terminal import make_brief, warnings_in
from lethe.jobs import Folder, Given, Shown
from lethe.plan import Plan
from lethe.plugins import manifest
from lethe.records.captions import About
from lethe.records.code import python_problem
from lethe.records.fingerprints import KEPT, KeptHashes
from lethe.records.records import notes
from lethe.records.rerun_notes import renew_notes

MODULE = workflow.modifier.parent_modifier is not None  # of somebody's workflow, which hands us its configuration
if not MODULE and workflow.is_main_process and not workflow.output_settings.verbose:
    make_brief(logger, planned=workflow.output_settings.dryrun)
if not config:
    raise WorkflowError("no configuration was read; name one, as in --configfile config/config.yaml")
if not MODULE and len(workflow.configfiles) > 1:  # of which Snakemake would put together what stands in the same entry
    together = merged(load_configfile(path) for path in workflow.configfiles)
    config.clear()
    update_config(config, together)
    update_config(config, workflow.config_settings.config)
read_overrides(config, workflow.config_settings.config)

try:
    source = ", ".join(os.path.relpath(path) for path in workflow.configfiles)
    config = check_config(config, source=source, files=workflow.configfiles, made=("results/",))
    INPUTS = read_inputs(config, source)
    if workflow.is_main_process:  # and not in the process of each job, for which all this was said
        check_plan(config, INPUTS, source)
        for remark in remarks(config, INPUTS):
            logger.warning(remark)
except ValueError as error:
    raise WorkflowError(str(error)) from None

if not LIBRARY and DeploymentMethod.CONDA in workflow.deployment_settings.deployment_method:
    raise WorkflowError("--sdm conda wants a clone, since its environments lack the library; or take --sdm apptainer")


# Device and offload stand in no command, as what it made elsewhere counts as current.
def tell_jobs(*, warm):
    """Give every command its variables. Warm jobs share a process that has imported what they need, until this ends."""
    owner = os.environ.get(WARM, str(os.getpid())) if warm and config["warm"] else "0"
    variables = dict(
        LETHE_DEVICE=config["device"], LETHE_OFFLOAD=str(int(config["offload"])), HF_HUB_DISABLE_TELEMETRY="1"
    )
    variables["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"  # or imports start CUDA, before a job has a GPU and may be forked
    variables[WARM] = owner
    if LIBRARY:
        variables["PYTHONPATH"] = str(LIBRARY)
    shell.prefix(f"export {' '.join(f'{name}={shlex.quote(value)}' for name, value in variables.items())}; ")


# Of a run here, onstart decides. On SLURM each job starts cold: it is a step of its own (srun), whose cores, memory and
# GPUs no fork of a process from outside it would have, and with which whatever it starts ends.
tell_jobs(warm=MODULE)


wildcard_constraints:
    base=r"[^/]+",
    concept=r"[^/]+",
    prior=r"[^/]+",
    text=r"[0-9a-f]{16}",
    task=r"[^/]+",
    method=r"[^/]+",
    suite=r"[^/]+",
    shard=r"[0-9a-f]{12}",
    recipe=r"[0-9a-f]{8}",
    measure=r"[^/]+",
    texts=r"[^/.]+",
    reference=r"[^/]+-[0-9a-f]{8}",
    edit=r"original|[^/]+/[^/]+",
    evaluation=r"[^/]+",
    attacked=r"original|random|[^/]+/[^/]+",
    probe=r"[^/]+",


# A plan of ten thousand jobs is millions of objects that stay: to look through them for cycles takes a tenth of it and
# frees nothing. The Snakefile turns this on again when jobs start, for which a module is not asked.
if not MODULE:
    gc.disable()


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


HASHES = KeptHashes(KEPT, told=logger.info)
PLAN = Plan(config, INPUTS, locate=folder_of, hash_file=HASHES)


# Of tables with the same names some are of attacks, which another rule makes.
OF_ATTACKS = "|".join(map(re.escape, filter(PLAN.is_of_attacks, PLAN.table_names))) or "(?!)"


wildcard_constraints:
    attacks=OF_ATTACKS,
    table=rf"(?!(?:{OF_ATTACKS})(?:\.csv|_by_concept\.csv|_side_effects\.csv|\.json)$)[^/]+(?<!_by_concept)(?<!\.images)(?<!\.numbers)(?<!\.costs)",


# What rules take from their declarations: `input: unpack(inputs(PLAN.x))`, `output: **outputs(PLAN.x)`,
# `log: PLAN.x.step.log`, `message: MESSAGE`, `params: **told(PLAN.x)`, `shell: COMMAND`.

MESSAGE = "{params.doing}: {log}"
COMMAND = "exec {params.command} --threads {threads} 2> {log:q}"
ENVIRONMENT = workflow.source_path("../../envs/lethe.yaml")


def of(rule, function):
    """A function of a job of a rule, as one of its wildcards."""

    def of_wildcards(wildcards):
        look_back()
        return function(rule(*(getattr(wildcards, name) for name in rule.step.wildcards)))

    of_wildcards.__signature__ = signature(of_wildcards)  # Snakemake asks for it, twice for each job
    return of_wildcards


def inputs(rule):
    """What a job reads, by name. Given files are ancient: a digest of what counts in them decides on a rerun."""

    def files(job):
        return {
            name: [ancient(file.path) if isinstance(file, Given) else file.path for file in files]
            for name, files in job.reads.items()
        }

    return of(rule, files)


def outputs(rule):
    """What a rule writes, by name, marked where the report holds it."""
    return {name: marked(rule.step, name, written) for name, written in rule.step.writes.items()}


def marked(step, name, written):
    if isinstance(written, Folder):
        return directory(written.pattern)
    if not isinstance(written, Shown):
        return written
    labels = {key: f"{{{key}}}" for key in step.wildcards if key != "base"}
    labels |= {"concept": "{concept}"} if written.each else {}
    return report(
        marked(step, name, written.written),
        caption=f"../report/{step.name}_{name}.rst",  # beside the folder of the rules
        category=written.category,
        labels=labels | {"content": written.what},
        patterns=[written.each] if written.each else [],
    )


class Untracked:
    """A text that Snakemake puts into a command and does not compare with that of the last run."""

    def __init__(self, text):
        self.text = text

    def __str__(self):
        return self.text


def told(rule):
    """The parameters of a rule: its command, what to say of it, and how its files are made, which alone decides on a
    rerun.

    Where the report holds a file of the rule, also what its caption says, which is read when that is written.
    """
    found = dict(
        command=of(rule, lambda job: Untracked(job.command)),
        doing=of(rule, lambda job: Untracked(job.doing)),
        made_by=of(rule, lambda job: job.digest),
    )
    if any(isinstance(written, Shown) for written in rule.step.writes.values()):
        found["about"] = of(rule, About)
    return found


@cache
def model_mb(model):
    """Size of a model folder's weights, in MB; a hub id has none before its download, so that of Stable Diffusion 1.x."""
    if model is None:
        return 0
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


def measure_model(wildcards):
    return config["measures"][wildcards.measure].get("model")


GPUS = int(config["device"] != "cpu")  # that a job with a model to run asks for


def method_asks(wildcards):
    """What a method's manifest asks of a machine."""
    return manifest("methods", config["methods"][wildcards.method]["kind"]).asks


def adapter_asks(wildcards):
    """What a method's manifest asks of a machine for the adapter of one concept."""
    return manifest("methods", PLAN.recipes[wildcards.recipe]["kind"]).more["concept_jobs"]["asks"]


def measure_asks(wildcards):
    """What a measure's manifest asks of a machine."""
    return manifest("measures", config["measures"][wildcards.measure]["kind"]).asks


def probe_asks(wildcards):
    """What a probe's manifest asks of a machine."""
    return PLAN.probe_kind(wildcards.probe).asks


def asks(said, model):
    """Resources of a job of a plug-in: what its manifest asks for, and room for the model that it loads."""

    def amount(key, *models):
        return lambda wildcards, attempt: growing(said(wildcards)[key], *models)(wildcards, attempt)

    return dict(
        mem_mb=amount("mb", model),
        runtime=amount("minutes"),
        gpu=lambda wildcards: min(GPUS, said(wildcards)["gpu"]),
    )


# Before, and after, a run


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


def start_warm():
    """Let jobs that run here start warm, where they are not so few that a process for that would cost more."""
    jobs = [job for job in workflow.dag.needrun_jobs() if job.log and (job.is_local or workflow.local_exec)]
    contained = DeploymentMethod.APPTAINER in workflow.deployment_settings.deployment_method  # each job apart
    tell_jobs(warm=(len(jobs) > 2 or WARM in os.environ) and not contained)


def check_python():
    """Refuse to start where the first job would find no libraries."""
    if not workflow.deployment_settings.deployment_method and (problem := python_problem(sys.executable)):
        raise WorkflowError(problem)


def check_writable(folder):
    """Refuse to start where the first job would fail to write."""
    if Path(folder).exists() and not os.access(folder, os.W_OK):
        raise WorkflowError(
            f"{Path(folder).absolute()} cannot be written: mount it writable, or change its owner or mode"
        )


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


def results():
    """The tables and pictures that a run makes, and the samples that no table reads."""
    jobs = (*PLAN.tables, *PLAN.figures, *PLAN.samples)
    return [path for job in jobs for path in job.outputs.values()]


def print_warnings():
    """What jobs of this run that ended well warned of, in their logs."""
    ended = (job for job in workflow.dag.needrun_jobs(exclude_finished=False) if workflow.dag.finished(job))
    if said := warnings_in(Path(log) for job in ended for log in job.log):
        print("\nWarnings of jobs that succeeded:", *(f"  {sentence}" for sentence in said), sep="\n")


def of_the_paper(wildcards):
    """The files of every table that an experiment of config/emoji names."""
    targets, found = PLAN.targets(), []
    for path in sorted((Path(workflow.basedir) / "config" / "emoji").glob("*.yaml")):
        tables = load_configfile(path)["tables"]
        if tables.keys() - targets.keys():
            told = f"paper_emoji is all tables of config/emoji, and this configuration has not those of {path.name}"
            raise WorkflowError(f"{told}; give all the files: --configfile config/emoji/*.yaml")
        found += [file for table in tables for file in targets[table]]
    return found


def print_results():
    shown = {path for job in PLAN.samples for path in job.outputs.values()} | {
        job.outputs["record"] for job in PLAN.tables
    }
    made = [path for path in results() if path not in shown and Path(path).exists()]
    print(f"\nDone.{' Tables and pictures:' * bool(made)}", *(f"  {path}" for path in made), sep="\n")
    if said := notes(Path(path) for job in workflow.dag.jobs for path in job.output):
        print("Know before you read them:", *(f"  {sentence}" for sentence in said), sep="\n")
