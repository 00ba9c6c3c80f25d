"""What a file of weights says of itself, so that user interfaces know what it is: ModelSpec, and a few keys of kohya's.

ModelSpec 1.0.1: https://github.com/Stability-AI/ModelSpec. The date of creation, which it would like too, is left out:
equal edits give equal bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lethe.bases.folder import read_object
from lethe.edits.edit import Edit
from lethe.files.headers import HASH, NO_HASH
from lethe.files.tensors import as_header
from lethe.inputs.hub import hub_problem

VERSION = "1.0.1"
ORIGINAL = "https://github.com/Stability-AI/generative-models"  # whose names of tensors checkpoints have
# By the width of text states: ModelSpec's name for epsilon-prediction and for v-prediction, and kohya's.
FAMILIES = {
    768: ("stable-diffusion-v1", "stable-diffusion-v1", "sd_v1"),
    1024: ("stable-diffusion-v2-512", "stable-diffusion-v2-768-v", "sd_v2"),
    2048: ("stable-diffusion-xl-v1-base", "stable-diffusion-xl-v1-base", "sdxl_base_v1-0"),
    1280: ("stable-diffusion-xl-v1-refiner", "stable-diffusion-xl-v1-refiner", "sdxl_refiner_v1-0"),
}


def hub_id(record: Mapping[str, Any]) -> str | None:
    """The hub id of the base that an edit was made for; None for one in a folder."""
    model = record["base"]["model"]
    return model if hub_problem(model, None) is None and not Path(model).exists() else None


def title_of(record: Mapping[str, Any], length: int = 3) -> str:
    """A short name of an edited model: its base's, and what it is without."""
    concepts, name = record["concepts"], hub_id(record) or record["base"]["name"]
    more = f" and {len(concepts) - length} more" if len(concepts) > length else ""
    return f"{name} without {', '.join(concepts[:length])}{more}"


def header_entries(
    base: Path,
    edit: Edit,
    *,
    about: str,
    licence: str | None,
    adapter: bool = False,
    original: bool = False,
    **more: Any,
) -> dict[str, str]:
    """Metadata of an exported file's header: ModelSpec's keys, and the edit's record, with `more`, under `lethe`.

    about: a sentence on the file.  licence: the base's, where it is known.  adapter: whether it is added to a base, not
    one itself.  original: whether its tensors have the names of Stable Diffusion's own code. The hash stands as
    `NO_HASH`, for `seal`. An architecture that is none of Stable Diffusion's has the name of its pipeline's class.
    """
    unet = read_object(base / "unet" / "config.json")
    scheduler = base / "scheduler" / "scheduler_config.json"
    velocity = scheduler.is_file() and read_object(scheduler).get("prediction_type") == "v_prediction"
    family = FAMILIES.get(unet.get("cross_attention_dim")) if isinstance(unet.get("cross_attention_dim"), int) else None
    architecture = family[velocity] if family else str(read_object(base / "model_index.json").get("_class_name"))
    entries = {
        "sai_model_spec": VERSION,
        "architecture": architecture + ("/lora" if adapter else ""),
        "implementation": ORIGINAL if original else "diffusers",
        "title": title_of(edit.record),
        "description": about,
        "prediction_type": "v" if velocity else "epsilon",
        **({"license": licence} if licence else {}),
        **({"resolution": size} if (size := _resolution(base, unet)) else {}),
    }
    found = {f"modelspec.{key}": text for key, text in entries.items()} | {HASH: NO_HASH}
    if adapter and family:  # by these A1111 tells for which bases it lists a file
        found |= {"ss_base_model_version": family[2], "ss_v2": str(family[2] == "sd_v2")}
    return found | as_header(edit.record | more)


def _resolution(base: Path, unet: Mapping[str, Any]) -> str | None:
    """The size of images that a base is made for, as `512x512`, where its configurations say it."""
    path, size = base / "vae" / "config.json", unet.get("sample_size")
    levels = read_object(path).get("block_out_channels") if path.is_file() else None
    if not isinstance(size, int) or not isinstance(levels, list):
        return None
    pixels = size * 2 ** (len(levels) - 1)
    return f"{pixels}x{pixels}"
