"""Join a task's concepts: refine and fuse in closed form, write the edit."""

from lethe.adapters import load_lora
from lethe.bases import PRECISIONS, pick_device, projection_weights
from lethe.edits import Edit, save_edit
from lethe.files import Loaded
from lethe.methods.mace import MaceSettings, erase, preserved
from lethe.moments import load_concept_moments, load_moment
from lethe.steps.arguments import read_arguments, record_of, use_threads

if __name__ == "__main__":
    args = read_arguments(__doc__, lists=["moments", "loras", "prior", "domain-prior"], outputs=["edit"])
    use_threads(args.threads)
    settings = args.settings
    target = {"device": pick_device(settings.device), "dtype": PRECISIONS[settings.precision]}
    base = settings.base
    projections = projection_weights(base["model"], base["revision"], variant=base["variant"])
    priors = (load_moment(paths[0]) if paths else None for paths in (args.prior, args.domain_prior))
    weights = erase(
        {name: weight.to(**target) for name, weight in projections.items()},
        Loaded(load_concept_moments, args.moments),
        Loaded(load_lora, args.loras),
        preserved(*priors, weight=settings.preserve_weight),
        MaceSettings(**settings.mace),
    )
    record = record_of("mace", args, base=base, concepts=settings.concepts)
    save_edit(args.out_edit, Edit({f"{name}.weight": weight for name, weight in weights.items()}, record))
