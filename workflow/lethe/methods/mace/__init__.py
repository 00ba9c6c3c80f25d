"""MACE (arXiv 2403.06135): a LoRA per concept, and the join that refines and fuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lethe.bases.base import Base
from lethe.edits.edit import Edit
from lethe.edits.factors import FactoredEdit
from lethe.edits.weights import WeightEdit
from lethe.inputs.concepts import Concept
from lethe.methods.mace import join


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Refine and fuse in closed form (Eq. 1-2, 6-7), in float64, rounded once to the base's dtype.

    `settings` are those of the manifest. `reads` holds `moments` and, unless `fusion` is none, `loras`, one for each
    concept and in their order, `prior` and `domain_prior`, each a Moment or None.
    Raises ValueError as `lethe.methods.mace.join.join` does.
    """
    kept = join.preserved(reads["prior"], reads["domain_prior"], weight=settings["preserve_weight"])
    chosen = join.MaceSettings(**{name: settings[name] for name in join.MaceSettings.__dataclass_fields__})
    loras = reads["loras"] if chosen.fusion != "none" else [{}] * len(concepts)
    joined = (reads["moments"], loras, kept, chosen)
    if settings["edit_form"] == "factors":
        transform, updates = join.join(base.projections, *joined)
        return FactoredEdit.stacked(transform, zip([concept.name for concept in concepts], updates, strict=True))
    weights = join.erase(base.computing(base.projections), *joined)
    return WeightEdit({f"{name}.weight": weight for name, weight in weights.items()})
