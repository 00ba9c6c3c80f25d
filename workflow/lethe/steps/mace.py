"""Join a task's concepts: refine and fuse in closed form, write the edit."""

from lethe.bases.pipeline import PRECISIONS
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.adapters import load_lora
from lethe.edits.edit import Edit, FactoredEdit, save_edit
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.loaded import Loaded
from lethe.methods.mace.join import MaceSettings, erase, join, preserved
from lethe.steps.job import Job
from lethe.steps.loading import folder_of


def run(job: Job) -> None:
    settings, reads, base = job.settings, job.reads, job.settings.base
    target = {"device": job.device, "dtype": PRECISIONS[settings.precision]}
    folder = folder_of(base)
    projections = projection_weights(str(folder), None, variant=base["variant"])
    priors = (load_moment(reads[key][0]) if reads[key] else None for key in ("prior", "domain_prior"))
    joined = (
        Loaded(load_concept_moments, reads["moments"]),
        Loaded(load_lora, reads["loras"]),
        preserved(*priors, weight=settings.preserve_weight),
        MaceSettings(**settings.mace),
    )
    hashes = weights_hash(folder, variant=base["variant"])
    record = job.record(base=base | {"weights_sha256": hashes}, task=settings.task, concepts=settings.concepts)
    if settings.edit_form == "factors":
        transform, updates = join(projections, *joined)
        edit = FactoredEdit.stacked(transform, zip(settings.concepts, updates, strict=True), record)
    else:
        weights = erase({name: weight.to(**target) for name, weight in projections.items()}, *joined)
        edit = Edit({f"{name}.weight": weight for name, weight in weights.items()}, record)
    save_edit(job.out["edit"], edit)
