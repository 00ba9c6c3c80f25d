"""Join a task's concepts: refine and fuse in closed form, write the edit."""

from lethe.bases.devices import pick_device
from lethe.bases.pipeline import PRECISIONS
from lethe.bases.weights import projection_weights, weights_hash
from lethe.edits.adapters import load_lora
from lethe.edits.edit import Edit, FactoredEdit, save_edit
from lethe.erasure.moments import load_concept_moments, load_moment
from lethe.files.loaded import Loaded
from lethe.methods.mace.join import MaceSettings, erase, join, preserved
from lethe.steps.job import record_of, step, use_threads
from lethe.steps.loading import folder_of

if __name__ == "__main__":
    with step("mace", __doc__, lists=["moments", "loras", "prior", "domain-prior"], outputs=["edit"]) as args:
        use_threads(args.threads)
        settings, base = args.settings, args.settings.base
        target = {"device": pick_device(settings.device), "dtype": PRECISIONS[settings.precision]}
        folder = folder_of(base)
        projections = projection_weights(str(folder), None, variant=base["variant"])
        priors = (load_moment(paths[0]) if paths else None for paths in (args.prior, args.domain_prior))
        joined = (
            Loaded(load_concept_moments, args.moments),
            Loaded(load_lora, args.loras),
            preserved(*priors, weight=settings.preserve_weight),
            MaceSettings(**settings.mace),
        )
        hashes = weights_hash(folder, variant=base["variant"])
        record = record_of(
            "mace", args, base=base | {"weights_sha256": hashes}, task=settings.task, concepts=settings.concepts
        )
        if settings.edit_form == "factors":
            transform, updates = join(projections, *joined)
            edit = FactoredEdit.stacked(transform, zip(settings.concepts, updates, strict=True), record)
        else:
            weights = erase({name: weight.to(**target) for name, weight in projections.items()}, *joined)
            edit = Edit({f"{name}.weight": weight for name, weight in weights.items()}, record)
        save_edit(args.out_edit, edit)
