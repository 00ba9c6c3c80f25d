"""Edits in forms that need nothing of Lethe: an edited pipeline as a diffusers folder, and an approximating LoRA."""

from __future__ import annotations

import json
import re
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lethe.bases.folder import LEGAL, UNUSED, WEIGHTS, parts_of, read_object, weight_files
from lethe.bases.weights import weights_hash
from lethe.edits.edit import Edit, ParameterEdit, check_edited, check_fit
from lethe.edits.factors import FactoredEdit
from lethe.edits.low_rank import LowRank
from lethe.files.tables import read_json
from lethe.files.tensors import open_tensors
from lethe.files.whole import folder_written_whole

RECORD = "lethe.json"
CARD = "README.md"
SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class LoraOfEdit:
    """The nearest LoRA to an edit: an update of each projection, and what it leaves out of the change.

    `left_out` is the Frobenius norm of the rest over that of the change, all projections together; `worst` names the
    projection where that share is largest.
    """

    updates: dict[str, LowRank]
    left_out: float
    worst: tuple[str, float]


def write_pipeline(base: Path, edit: Edit | FactoredEdit, folder: Path) -> None:
    """Write a base with the edit in its weights as a folder that `DiffusionPipeline.from_pretrained` loads.

    Everything but the changed weights is copied as it is, those keep the base's dtype. Weights of other formats are
    left out, as are those of variants but the one that the edit was made for, which loads without being named. The
    folder appears whole or not at all, with the edit's record and a card.

    Raises ValueError when the edit changes no weights, was made for others, does not fit or overflows in the base's
    dtype, when `folder` holds anything already, and when a component of the base has no weights in safetensors.
    """
    check_base(edit, base)
    with folder_written_whole(folder) as part:
        _copy_index(base, part)
        for name in parts_of(base):
            if (base / name).is_dir():
                _copy_component(base / name, part / name, edit.record["base"].get("variant"))
                if name.startswith("text_encoder"):
                    load_in_float32(part / name)
        for path in weight_files(part / "unet").values():
            _overwrite(path, edit)
        for path in base.iterdir():
            if path.is_file() and LEGAL.fullmatch(path.name):
                shutil.copyfile(path, part / path.name)
        earlier = read_json(base / RECORD) if (base / RECORD).is_file() else []
        if not isinstance(earlier, list):
            raise ValueError(f"{base / RECORD}: it must be the list of the edits that were applied; remove the file")
        records = json.dumps([*earlier, edit.record], indent=2, sort_keys=True, ensure_ascii=False)
        (part / RECORD).write_text(records + "\n", encoding="utf-8")
        own = (base / CARD).read_text(encoding="utf-8") if (base / CARD).is_file() else ""
        (part / CARD).write_text(card(edit.record, own), encoding="utf-8")


def lora_of(base: Path, edit: Edit | FactoredEdit, *, rank: int) -> LoraOfEdit:
    """The LoRA of this rank that comes nearest to what an edit adds to a base's projections, in float32.

    By the Eckart-Young theorem: the largest singular values of each projection's change. An edit by refinement and
    fusion has full rank, so something is always left out unless `rank` reaches the width of the projections.

    Raises ValueError when the edit changes no weights or anything but matrices, was made for other weights or does not
    fit, and on a rank below 1.
    """
    if rank < 1:
        raise ValueError(f"lora_of: `rank` must be 1 or more; got {rank}")
    check_changes_weights(edit)
    for name, shape in edit.shapes.items():
        if len(shape) != 2 or not name.endswith(".weight"):
            raise ValueError(f"the edit changes {name}, which is no projection; a LoRA cannot express it")
    check_base(edit, base)
    updates, shares, total, rest = {}, {}, 0.0, 0.0
    for path in weight_files(base / "unet", variant=edit.record["base"].get("variant")).values():
        for name, old in _changing(path, edit).items():
            old = old.to(torch.float64)
            change = edit.edited({name: old})[name] - old
            projection = name.removesuffix(".weight")
            updates[projection], values = nearest_low_rank(change, rank)
            size, left = values.square().sum().item(), values[rank:].square().sum().item()
            shares[projection] = (left / size) ** 0.5 if size else 0.0
            total, rest = total + size, rest + left
    worst = max(shares, key=shares.__getitem__)
    return LoraOfEdit(updates, (rest / total) ** 0.5 if total else 0.0, (worst, shares[worst]))


def nearest_low_rank(matrix: Tensor, rank: int) -> tuple[LowRank, Tensor]:
    """The matrix of this rank nearest to `matrix` `[out, d]`, in float32, and the singular values of `matrix`.

    Where `matrix` has fewer than `rank` singular values the factors end in zeros: readers of LoRAs disagree on the
    scale of layers whose rank is not that of the others.
    """
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    up, down = u[:, :rank] * root, root[:, None] * v[:rank]
    missing = rank - len(root)
    if missing > 0:
        up = torch.cat([up, up.new_zeros(len(up), missing)], dim=1)
        down = torch.cat([down, down.new_zeros(missing, down.shape[1])])
    return LowRank(down.float(), up.float()), values


def check_changes_weights(edit: Edit) -> None:
    """Raise ValueError for an edit that guides inference: no weights hold it, and no LoRA."""
    if not isinstance(edit, ParameterEdit):
        raise ValueError("this edit changes no weight; it guides inference: sample with it")


def check_base(edit: Edit | FactoredEdit, base: Path) -> None:
    """Raise ValueError when a base's folder does not hold the weights that an edit was made for, or it does not fit."""
    check_changes_weights(edit)
    variant = edit.record["base"].get("variant")
    made_for, found = edit.record["base"].get("weights_sha256"), weights_hash(base, variant=variant)
    if not isinstance(made_for, dict):
        raise ValueError("the edit's header has no hash of the weights it was made for; make the edit again")
    if differing := sorted(name for name in {*made_for, *found} if made_for.get(name) != found.get(name)):
        raise ValueError(
            f"the edit was made for base {edit.record['base']['name']} ({edit.record['base']['model']}), and {base} "
            f"differs from it in {' and '.join(differing)}; make the edit again for this base"
        )
    shapes: dict[str, tuple[int, ...]] = {}
    for path in weight_files(base / "unet", variant=variant).values():
        with open_tensors(path) as file:
            shapes |= {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    check_fit(edit, shapes)


def card(record: Mapping, own: str) -> str:
    """A model card in Markdown that says what was erased from what; `own`, the base's card, follows it."""
    front, body = re.fullmatch(r"(---\n.*?\n---\n)?(.*)", own, re.DOTALL).groups()
    base = record["base"]
    at = f", revision {base['revision']}" if base.get("revision") else ""
    lines = [
        "# An edited model",
        "",
        f"Lethe's method {record['step']} erased the concepts below from the base {json.dumps(base['model'])}{at}: "
        "prompts that name them should no longer bring them out. "
        f"`{RECORD}` has every setting, and the hashes of everything that went in.",
        "",
        "```json",
        *(json.dumps(concept, ensure_ascii=False) for concept in record["concepts"]),
        "```",
        "",
        "Whoever has the base, or finetunes this model, can bring them back. The base's licence holds for this model.",
    ]
    if body.strip():
        lines += ["", "The card of the base follows.", "", body.strip()]
    return (front or "") + "\n".join(lines) + "\n"


def load_in_float32(component: Path) -> None:
    """Let a text encoder's folder load in float32 where no dtype is named; its weights stay as they are stored.

    diffusers then loads its own parts in float32, and transformers a text encoder in the dtype of its configuration or
    else of its weights: parts stored in half precision would be of two dtypes, and the pipeline could not draw.
    """
    path = component / "config.json"
    config = read_object(path)
    text = config["text_config"] if isinstance(config.get("text_config"), dict) else config
    said = {key: node[key] for node in (config, text) for key in ("dtype", "torch_dtype") if node.get(key)}
    if set(said.values()) == {"float32"} or (not said and _stored_dtypes(component) <= {"F32"}):
        return
    for node in (config, text):
        node.pop("torch_dtype", None)
        node["dtype"] = "float32"
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def _stored_dtypes(component: Path) -> set[str]:
    """Dtypes of the floating-point tensors in a component's weight files, as safetensors names them."""
    found: set[str] = set()
    for path in weight_files(component).values():
        with open_tensors(path) as file:
            found |= {file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
    return {dtype for dtype in found if dtype.startswith(("F", "BF"))}


def _copy_index(base: Path, folder: Path) -> None:
    """Copy a pipeline's index; parts that draw nothing and whose folder is not there are no longer named."""
    index = read_object(base / "model_index.json")
    absent = [name for name in parts_of(base) if name in UNUSED and not (base / name).is_dir()]
    if not absent:
        shutil.copyfile(base / "model_index.json", folder / "model_index.json")
        return
    index |= {name: [None, None] for name in absent}
    if "safety_checker" in absent:
        index["requires_safety_checker"] = False
    text = json.dumps(index, indent=2, sort_keys=True, ensure_ascii=False)
    (folder / "model_index.json").write_text(text + "\n", encoding="utf-8")


def _copy_component(source: Path, target: Path, variant: str | None) -> None:
    """Copy a component's files, of its weights only those that it loads, under the names that load by default."""
    weights = weight_files(source, variant=variant)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        if not WEIGHTS.fullmatch(path.name):  # in other formats and variants they would be the unedited base's
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        elif not weights:
            raise ValueError(f"{path}: these weights are not in safetensors; save the base with safetensors first")
    for name, path in weights.items():
        shutil.copyfile(path, target / name)
    if weights and (shard := SHARD.fullmatch(next(iter(weights)))):
        weight_map, size = {}, 0
        for name in weights:
            start, header = _header(target / name)
            weight_map |= dict.fromkeys(sorted(header.keys() - {"__metadata__"}), name)
            size += (target / name).stat().st_size - start
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        path = target / f"{shard[1]}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _changing(path: Path, edit: Edit | FactoredEdit) -> dict[str, Tensor]:
    """The tensors of a safetensors file that an edit changes."""
    with open_tensors(path) as file:
        return {name: file.get_tensor(name) for name in file.keys() if name in edit.shapes}  # noqa: SIM118


def _header(path: Path) -> tuple[int, dict]:
    """Where the tensors of a safetensors file begin, and its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        return 8 + length, json.loads(file.read(length))


def _overwrite(path: Path, edit: Edit | FactoredEdit) -> None:
    """Edit a safetensors file where it lies: shapes and dtypes stay, so each tensor's bytes keep their place."""
    edited = edit.edited(_changing(path, edit))
    check_edited(edited)
    start, header = _header(path)
    with path.open("r+b") as file:
        for name, weight in edited.items():
            file.seek(start + header[name]["data_offsets"][0])
            file.write(weight.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
