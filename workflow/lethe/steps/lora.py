"""Train a concept's LoRA on the base refined for the given concepts."""

from lethe.edits.adapters import save_lora
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.loaded import Loaded
from lethe.files.shards import read_images, read_rows
from lethe.inputs.templates import read_templates
from lethe.methods.mace.loras import concept_lora
from lethe.steps.job import Job
from lethe.steps.loading import pipeline_of

LESS_MEMORY = "lora.batch of the method"


def run(job: Job) -> None:
    settings, reads = job.settings, job.reads
    preserved = [(list(read_rows(path)["prompt"]), read_images(path)) for path in reads["anchor_images"]]
    state, curve = concept_lora(
        pipeline_of(job),
        settings.concept,
        vars(settings),
        images=read_images(job.read("images")),
        masks=[mask > 127 for mask in read_images(job.read("masks"))],
        templates=read_templates(job.read("templates"))[: settings.templates_used],
        moments=Loaded(load_concept_moments, reads["moments"]),
        priors=[load_moment(reads[key][0]) if reads[key] else None for key in ("prior", "domain_prior")],
        preserved_images=preserved[0] if preserved else None,
        anchor=vars(settings).get("anchor"),
    )
    save_lora(job.out["lora"].parent, state, job.record())
    job.write_curve("curve", curve)
