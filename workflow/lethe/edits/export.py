"""Edits in forms that need nothing of Lethe, each in a folder with its card: for diffusers, for user interfaces."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from lethe.bases.folder import LEGAL, UNUSED, WEIGHTS, base_folder, parts_of, read_object, weight_files
from lethe.edits import cards
from lethe.edits.adapters import WEIGHTS_NAME
from lethe.edits.cards import method_of
from lethe.edits.changes import check_base, check_changes_weights, edited_in, unet_files
from lethe.edits.checkpoints import write_checkpoint
from lethe.edits.edit import Edit
from lethe.edits.forms import FORMS, LORAS, RECORD, WHOLE
from lethe.edits.loras import LoraOfEdit, differences, kohya_layers, lora_of, peft_layers
from lethe.edits.modelspec import header_entries
from lethe.files.headers import copy_described, header_of, replace_tensors, seal
from lethe.files.tables import read_json
from lethe.files.tensors import open_tensors, write_tensors
from lethe.files.whole import folder_written_whole

SHARD = re.compile(r"(.*)-\d{5}-of-\d{5}\.safetensors")


@dataclass(frozen=True)
class Exported:
    """What `export` wrote: the file, or for a pipeline the folder; sentences on it; and the share of the edit's change
    (Frobenius norm) that it leaves out, 0 for all forms but LoRAs."""

    path: Path
    about: tuple[str, ...]
    left_out: float


def export(
    edit: Edit,
    folder: str | Path,
    form: str = "diffusers",
    *,
    base: str | Path | None = None,
    revision: str | None = None,
    rank: int | None = None,
    checkpoint: str | Path | None = None,
    gallery: tuple[str | Path, str | Path] | None = None,
    table: str | Path | None = None,
    row: str | None = None,
) -> Exported:
    """Write an edit in a form that needs nothing of Lethe, as a folder that appears whole or not at all, with a card.

    Args:
        form: one of `FORMS`.  base, revision: the base, a folder or a hub id; by default the one that the edit was made
        for.  rank: of LoRAs.  checkpoint: for that form, the base's single-file checkpoint, in safetensors.
        gallery: two folders of `lethe sample`, of the base and of the edit, to show in the card.  table, row: one of
        the workflow's tables (CSV), whose row (by default the edit's own) stands in the card.
    Raises: ValueError on an unknown form, on what the form needs and lacks, or has no use for; when the edit changes no
        weights, was made for other weights, does not fit, or overflows in the base's dtype; when `folder` holds
        anything already; and as `lora_of`, `differences`, `write_checkpoint`, `cards.gallery` and `cards.results`.
    """
    if form not in FORMS:
        raise ValueError(f"there is no form {form!r}; there are {', '.join(FORMS)}")
    for name, value, forms in (("rank", rank, LORAS), ("checkpoint", checkpoint, ("checkpoint",))):
        if (value is not None) != (form in forms):
            raise ValueError(f"the form {form} {'needs' if value is None else 'has no use for'} a {name}")
    if row is not None and table is None:
        raise ValueError("a row is one of a table; name the table too")
    check_changes_weights(edit)
    numbers = [] if table is None else cards.results(Path(table), row or own_row(edit.record, Path(table)))
    pairs = [] if gallery is None else cards.gallery(*map(Path, gallery))
    source, folder = _base(edit, base, revision), Path(folder)
    front, own = cards.own_card(source)
    with folder_written_whole(folder) as part:
        file = part / f"{folder.absolute().name}.safetensors"
        about, left_out = [], 0.0
        entries = partial(_entries, source, edit, form, cards.licence_of(front))
        if form == "diffusers":
            file, about = part, ["The edited pipeline: `DiffusionPipeline.from_pretrained` loads this folder."]
            write_pipeline(source, edit, part, entries(about))
        elif form == "checkpoint":
            about = [
                "A single-file checkpoint: the base's own, but for the edited tensors.",
                "Its U-Net was compared with the base's, its text encoder and VAE were not.",
            ]
            write_checkpoint(source, edit, Path(checkpoint), file, entries(about))
        elif form == "diff":
            about = [
                "What the edit adds to each weight that it changes, nothing left out; at strength 1 it is the edit."
            ]
            _write(file, differences(source, edit), entries(about))
        else:
            lora = lora_of(source, edit, rank=rank)
            about, left_out = _said(lora, rank), lora.left_out
            file = part / WEIGHTS_NAME if form == "peft" else file
            layers = peft_layers(lora.updates) if form == "peft" else kohya_layers(source, lora.updates)
            _write(file, layers, entries(about, rank=rank, left_out=left_out))
        _write_record(source, edit, part)
        cards.write_card(part, edit.record, front=front, own=own, form=form, about=about, pairs=pairs, numbers=numbers)
    return Exported(folder / file.relative_to(part), tuple(about), left_out)


def _entries(
    base: Path, edit: Edit, form: str, licence: str | None, about: Sequence[str], **more: Any
) -> dict[str, str]:
    """Entries of a header; of kohya's LoRAs those too by which his programs know a network."""
    found = header_entries(
        base,
        edit,
        about=" ".join(about),
        licence=licence,
        adapter=form not in WHOLE,
        original=form == "checkpoint",
        export={"form": form, **more},
    )
    if form == "kohya":
        rank = str(more["rank"])
        found |= {"ss_network_module": "networks.lora", "ss_network_dim": rank, "ss_network_alpha": rank}
    return found


def _said(lora: LoraOfEdit, rank: int) -> list[str]:
    name, share = lora.worst
    return [
        f"This LoRA of rank {rank} leaves out {lora.left_out:.2%} of the edit's change (Frobenius norm); most in "
        f"{name}, {share:.2%}. Sample with it before you rely on it."
    ]


def own_row(record: Mapping[str, Any], table: Path) -> str:
    """The row of a table that is an edit's: `method`, or `task/method` in a table of several tasks."""
    method = method_of(record)
    with table.open(encoding="utf-8", newline="") as file:
        rows = {line.partition(",")[0] for line in file}
    long = f"{record.get('task')}/{method}"
    return long if long in rows else method


def _base(edit: Edit, base: str | Path | None, revision: str | None) -> Path:
    """The folder of the base, downloaded if it is not there."""
    about = edit.record["base"]
    if base is None:
        base, revision = about["model"], revision or about.get("revision")
    if revision is not None and Path(base).is_dir():
        raise ValueError(f"{base} is a folder and has no revisions; name none")
    folder = base_folder(str(base), revision, variant=about.get("variant"))
    parts_of(folder)  # which says so of a folder that holds no pipeline
    return folder


def _write(path: Path, tensors: Mapping[str, Tensor], entries: Mapping[str, str]) -> None:
    bare = path.with_suffix(".bare")
    write_tensors(bare, tensors, {})
    copy_described(bare, path, entries)
    bare.unlink()
    seal(path)


def _write_record(base: Path, edit: Edit, folder: Path) -> None:
    """Write what made an edit, behind what made the edits that the base has already."""
    earlier = read_json(base / RECORD) if (base / RECORD).is_file() else []
    if not isinstance(earlier, list):
        raise ValueError(f"{base / RECORD}: it must be the list of the edits that were applied; remove the file")
    records = json.dumps([*earlier, edit.record], indent=2, sort_keys=True, ensure_ascii=False)
    (folder / RECORD).write_text(records + "\n", encoding="utf-8")


def write_pipeline(base: Path, edit: Edit, folder: Path, entries: Mapping[str, str]) -> None:
    """Write a base with the edit in its weights into a folder, so that `DiffusionPipeline.from_pretrained` loads it.

    Everything but the changed weights is copied as it is, those keep the base's dtype; headers of the U-Net's files get
    more entries. Weights of other formats are left out, as are those of variants but the one that the edit was made
    for, which loads without being named.

    Raises ValueError when the edit changes no weights, was made for others, does not fit or overflows in the base's
    dtype, and when a component of the base has no weights in safetensors.
    """
    check_base(edit, base)
    _copy_index(base, folder)
    for name in parts_of(base):
        if (base / name).is_dir():
            more = entries if name == "unet" else {}
            _copy_component(base / name, folder / name, edit.record["base"].get("variant"), more)
            if name.startswith("text_encoder"):
                load_in_float32(folder / name)
    for name, path in unet_files(base, edit).items():
        replace_tensors(folder / "unet" / name, edited_in(path, edit))
        seal(folder / "unet" / name)
    for path in base.iterdir():
        if path.is_file() and LEGAL.fullmatch(path.name):
            shutil.copyfile(path, folder / path.name)


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


def _copy_component(source: Path, target: Path, variant: str | None, entries: Mapping[str, str]) -> None:
    """Copy a component's files, of its weights only those that it loads, under the names that load by default.

    entries: what headers of weights say besides.
    """
    weights = weight_files(source, variant=variant)
    for path in sorted(path for path in source.rglob("*") if path.is_file()):
        if not WEIGHTS.fullmatch(path.name):  # in other formats and variants they would be the unedited base's
            copy = target / path.relative_to(source)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, copy)
        elif not weights:
            raise ValueError(f"{path}: these weights are not in safetensors; save the base with safetensors first")
    for name, path in weights.items():
        copy_described(path, target / name, entries) if entries else shutil.copyfile(path, target / name)
    if weights and (shard := SHARD.fullmatch(next(iter(weights)))):
        weight_map, size = {}, 0
        for name in weights:
            start, header = header_of(target / name)
            weight_map |= dict.fromkeys(sorted(header.keys() - {"__metadata__"}), name)
            size += (target / name).stat().st_size - start
        index = {"metadata": {"total_size": size}, "weight_map": weight_map}
        path = target / f"{shard[1]}.safetensors.index.json"
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
