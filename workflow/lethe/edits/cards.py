"""Model cards of edits: what the hub reads (front matter) and what a person reads, with pictures and numbers."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lethe.bases.folder import read_object
from lethe.edits.forms import CARD, LORAS, RECORD, WHOLE
from lethe.edits.modelspec import hub_id, title_of
from lethe.records.traces import cells_of

PICTURES = "images"  # the folder of a card's pictures
# Of the base's front matter; what else stands there, such as its results and examples, is not true of an edited model.
CARRIED = ("license", "license_name", "license_link", "language", "extra_gated_prompt", "extra_gated_fields")
NEAREST = ("Of the edit itself, not of this LoRA, which leaves something out of it.", "")
PLAIN = re.compile(r"[^\w\s.,:;!?'/-]|_")  # what could be Markdown or HTML


@dataclass(frozen=True)
class Pair:
    """A picture of a base and the same of its edited model: one prompt, one seed."""

    prompt: str
    seed: int
    before: Path
    after: Path


def gallery(before: Path, after: Path) -> list[Pair]:
    """Pairs of pictures from two folders of `lethe sample`, one of a base, the other of an edit.

    Raises ValueError when a folder is none, or the two are of other prompts, seeds or settings.
    """
    told = [read_object(folder / "samples.json") for folder in (before, after)]
    for folder, about in zip((before, after), told, strict=True):
        rows = about.get("images")
        if not isinstance(rows, list) or not all(_is_row(row) for row in rows):
            raise ValueError(f"{folder / 'samples.json'}: it does not list images as `lethe sample` does")
    if told[0].get("edit") or not told[1].get("edit"):
        raise ValueError(f"a gallery is of a base, then of an edit; {before} and {after} are not drawn from these")
    drawing = [{key: about.get(key) for key in ("scheduler", "steps", "guidance", "images")} for about in told]
    if drawing[0] != drawing[1]:
        raise ValueError(f"{before} and {after} are not of the same prompts, seeds and settings; draw them alike")
    return [Pair(row["prompt"], row["seed"], before / row["image"], after / row["image"]) for row in told[0]["images"]]


def _is_row(row: object) -> bool:
    return (
        isinstance(row, dict)
        and isinstance(row.get("prompt"), str)
        and isinstance(row.get("seed"), int)
        and isinstance(row.get("image"), str)
        and re.fullmatch(r"\d+\.png", row["image"]) is not None  # it is part of a path
    )


def results(table: Path, row: str) -> list[dict[str, Any]]:
    """The numbers of a row of one of the workflow's tables, as `lethe.records.traces.cells_of` gives them.

    Raises ValueError when there is no such row, or it has no numbers.
    """
    found = [cell | {"table": table.stem} for cell in cells_of(table, row, None) if _is_number(cell["value"])]
    if not found:
        raise ValueError(f"{table}: row {row!r} has no numbers")
    return found


def _is_number(text: str) -> bool:
    try:
        return -float("inf") < float(text) < float("inf")
    except ValueError:
        return False


def own_card(base: Path) -> tuple[dict[str, Any], str]:
    """The front matter and the text of a base's own card; nothing where it has none.

    Raises ValueError, naming the file, when its front matter is no YAML of keys and values.
    """
    import yaml

    path = base / CARD
    if not path.is_file():
        return {}, ""
    found = re.fullmatch(r"(?:---\r?\n(.*?)\n---\s*?(?:\n|$))?(.*)", path.read_text(encoding="utf-8"), re.DOTALL)
    try:
        front = yaml.safe_load(found[1] or "") or {}
    except yaml.YAMLError as error:
        raise ValueError(f"{path}: its front matter is no YAML ({' '.join(str(error).split())})") from None
    if not isinstance(front, dict):
        raise ValueError(f"{path}: its front matter must be keys and values")
    return front, found[2].strip()


def licence_of(front: Mapping[str, Any]) -> str | None:
    """The licence that a base's front matter names."""
    named = front.get("license_name") if front.get("license") == "other" else None
    found = named or front.get("license")
    return found if isinstance(found, str) else None


def write_card(
    folder: Path,
    record: Mapping[str, Any],
    *,
    front: Mapping[str, Any],
    own: str,
    form: str,
    about: Sequence[str],
    pairs: Sequence[Pair] = (),
    numbers: Sequence[Mapping[str, Any]] = (),
) -> None:
    """Write the card of an exported edit, with its pictures, into a folder.

    front, own: the base's card (`own_card`), whose licence is carried over.  form: one of `lethe.edits.forms`.  about:
    sentences on it.  pairs, numbers: of the edit itself; the card of a LoRA says that they are not its own, and tells
    the hub nothing of them.
    """
    for number, pair in enumerate(pairs):
        (folder / PICTURES).mkdir(exist_ok=True)
        for name, picture in (("before", pair.before), ("after", pair.after)):
            shutil.copyfile(picture, folder / PICTURES / f"{name}-{number:03d}.png")
    text = card(record, front=front, own=own, form=form, about=about, pairs=pairs, numbers=numbers)
    (folder / CARD).write_text(text, encoding="utf-8")


def card(
    record: Mapping[str, Any],
    *,
    front: Mapping[str, Any],
    own: str,
    form: str,
    about: Sequence[str] = (),
    pairs: Sequence[Pair] = (),
    numbers: Sequence[Mapping[str, Any]] = (),
) -> str:
    """A model card in Markdown, as of `write_card`."""
    base = record["base"]
    at = f", revision {base['revision']}" if base.get("revision") else ""
    whole, nearest = form in WHOLE, form in LORAS
    lines = [
        "# An edited model" if whole else "# An edit of a model",
        "",
        f"Lethe's method {method_of(record)} erased the concepts below from the base {json.dumps(base['model'])}{at}: "
        "prompts that name them should no longer bring them out. "
        f"`{RECORD}` has every setting, and the hashes of everything that went in.",
        "",
        "```json",
        *(json.dumps(concept, ensure_ascii=False) for concept in record["concepts"]),
        "```",
        "",
        *(f"{sentence}\n" for sentence in about),
        *_pictures(pairs, nearest),
        *_numbers(numbers, nearest),
        "## What this does not guarantee",
        "",
        "- Words that were neither named above nor near them in meaning, and pictures given as a start, may still "
        "bring the concepts out; so may prompts that somebody searches for on purpose.",
        "- What was not named changes too, though little if all went well. Look at what you care about.",
        "- Whoever has the base, or finetunes this model, can bring the concepts back.",
        "- It was made for the weights of this base alone. On a model made from it, it may do less or more.",
        "",
        "The base's licence holds for this model.",
    ]
    if own and whole:
        lines += ["", "The card of the base follows.", "", own]
    return (
        f"---\n{_front(record, front, whole, *(((), ()) if nearest else (pairs, numbers)))}\n---\n"
        + "\n".join(lines)
        + "\n"
    )


def method_of(record: Mapping[str, Any]) -> str:
    """The method that made an edit, by its name in the configuration."""
    return str(record.get("method", record["step"]))


def _front(
    record: Mapping[str, Any],
    own: Mapping[str, Any],
    whole: bool,
    pairs: Sequence[Pair],
    numbers: Sequence[Mapping[str, Any]],
) -> str:
    from huggingface_hub import EvalResult, ModelCardData  # here, as it is slow to import

    tags = own["tags"] if isinstance(own.get("tags"), list) else []
    tags = [*tags, *(tag for tag in ("lethe", "concept-erasure") if tag not in tags)]
    if not whole and "lora" not in tags:
        tags.append("lora")
    related = {"base_model": hub_id(record) or own.get("base_model")}
    if related["base_model"]:
        related["base_model_relation"] = "finetune" if whole else "adapter"
    more = {"model_name": title_of(record)} if numbers else {}
    if numbers:
        more["eval_results"] = [_result(EvalResult, cell) for cell in numbers]
    if pairs:
        shown = enumerate(pairs)
        more["widget"] = [
            {"text": pair.prompt, "output": {"url": f"{PICTURES}/after-{k:03d}.png"}} for k, pair in shown
        ]
    kept = {key: own[key] for key in CARRIED if key in own}
    data = ModelCardData(library_name="diffusers", pipeline_tag="text-to-image", tags=tags, **kept, **related, **more)
    return data.to_yaml()


def _result(kind: type, cell: Mapping[str, Any]) -> Any:
    return kind(
        task_type="text-to-image",
        dataset_type=cell["table"],
        dataset_name=cell["table"],
        metric_type=cell["column"],
        metric_value=float(cell["value"]),
        metric_name=cell["column"],
        metric_args={
            **({"protocol": cell["protocol"]} if cell["protocol"] else {}),
            **({"n": int(float(cell["n"]))} if cell["n"] else {}),
            **({"interval_95": [round(bound, 2) for bound in cell["interval_95"]]} if cell["interval_95"] else {}),
        }
        or None,
    )


def _pictures(pairs: Sequence[Pair], nearest: bool) -> list[str]:
    if not pairs:
        return []
    rows = [
        f"| {_shown(pair.prompt)} ({pair.seed}) | ![before]({PICTURES}/before-{k:03d}.png) "
        f"| ![after]({PICTURES}/after-{k:03d}.png) |"
        for k, pair in enumerate(pairs)
    ]
    return [
        "## Before and after",
        "",
        *(NEAREST if nearest else ()),
        "| prompt (seed) | base | edited |",
        "|---|---|---|",
        *rows,
        "",
    ]


def _numbers(numbers: Sequence[Mapping[str, Any]], nearest: bool) -> list[str]:
    if not numbers:
        return []
    rows = []
    for cell in numbers:
        between = "{:.2f} to {:.2f}".format(*cell["interval_95"]) if cell["interval_95"] else ""
        cells = (cell["column"], cell["value"], cell["n"] or "", between, cell["protocol"] or "")
        rows.append(f"| {' | '.join(_shown(str(text)) for text in cells)} |")
    head = ["| number | value | n | 95 % interval | protocol |", "|---|---|---|---|---|"]
    return ["## Numbers", "", *(NEAREST if nearest else ()), *head, *rows, ""]


def _shown(text: str) -> str:
    """A text as Markdown shows it, on one line: it may come from anybody."""
    return PLAIN.sub(lambda found: f"&#{ord(found[0])};", " ".join(text.split()))
