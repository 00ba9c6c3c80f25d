"""A gallery of a task: one page of HTML that shows every prompt and seed before and after, and needs nothing else."""

from __future__ import annotations

import base64
import io
import math
import shlex
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from lethe.tables.known import known, name_of

PAGE = Path(__file__).with_name("gallery.html")  # the template
BUDGET = 17_000_000  # bytes that images, as text, and what is said of them take in a page: it stays under 20 MB
MARKUP = 900  # of them for what is said of an image
SIDE = 256  # pixels of a side of an image that is drawn smaller, since there are too many
ORIGINAL = "original"
WORDS = {"erased": "erased", "generality": "other words", "kept": "kept"}  # for roles
LESS, MORE = "lower is better", "higher is better"
ROW = ["role", "suite", "shard", "row"]  # what tells a prompt and seed of one role apart


def judged(samples: pd.DataFrame) -> pd.DataFrame:
    """Samples with a verdict on each: `state`, `said` and `bad`.

    samples: role, what of its rows `counts`, type, prompt, evaluation_seed, method, `ROW`, and the columns of
    `Row.images`, missing where nothing was measured. state: `base` for the base as it is, `fail` for an image that
    shows what was erased or not what should stay, `hold` for the others, `none` where nothing is recognised. said: that
    in words.  bad: how far from what is wanted, in [0, 1] of a probability; of a score the difference to the base's.
    """
    rows = samples.to_dict("records")
    own = {_key(row): row for row in rows if row["method"] == ORIGINAL}
    lines = [_verdict(row, own[_key(row)]) for row in rows]
    return samples.assign(**pd.DataFrame(lines, columns=["state", "said", "bad"], index=samples.index))


def _key(row: Mapping[str, Any]) -> tuple:
    return tuple(row[name] for name in ROW)


def _verdict(row: Mapping[str, Any], before: Mapping[str, Any]) -> tuple[str, str, float]:
    gone, of_base = row["counts"] == "erased", row["method"] == ORIGINAL
    if pd.notna(row["score"]):
        change = row["score"] - before["score"]
        told = f"score {row['score']:.1f}"
        return ("base", told, 0.0) if of_base else ("none", f"{told} ({change:+.1f})", change if gone else -change)
    if pd.isna(row["right"]):
        return "base" if of_base else "none", "nothing to judge", 0.0
    right, likely = bool(row["right"]), row["type_probability"]
    found = f"{row['predicted']}{_percent(row['probability'])}"
    if not right and pd.notna(likely):
        found += f"; {row['type']}{_percent(likely)}"
    if pd.isna(likely):  # and of what it was taken for alone: the type has no more than is left
        likely = row["probability"] if right else 1 - row["probability"]
    if of_base:
        return "base", found, 0.0
    if gone:
        return ("fail", f"still {found}", likely) if right else ("hold", found, likely)
    if right:
        return "hold", found, 1 - likely
    as_before = pd.notna(before.get("right")) and not before["right"]
    return ("fail", f"wrong as before: {found}", 0.0) if as_before else ("fail", f"lost: {found}", 1 - likely)


def _percent(share: float) -> str:
    """A probability behind what it is of; nothing where there is none."""
    if pd.isna(share):
        return ""
    percent = 100 * share
    if percent < 0.1:
        return " < 0.1 %"
    if percent > 99.9:
        return " > 99.9 %"
    return f" {percent:.0f} %" if 1 <= percent <= 99 else f" {percent:.1f} %"


def worst_first(samples: pd.DataFrame) -> list[tuple]:
    """The keys of rows (`ROW`), from what `judged` gives: where an edit fails, by its worst image; then others."""
    edits = samples[samples["method"] != ORIGINAL]
    fails = edits["state"] == "fail"
    edits = edits.assign(fails=fails, worst=edits["bad"].where(fails, -math.inf))
    found = edits.groupby(ROW, sort=False).agg(dict(fails="sum", worst="max", bad="max"))
    found["any"] = found["fails"] > 0
    return list(found.sort_values(["any", "worst", "fails", "bad"], ascending=False, kind="stable").index)


def in_turns(keys: Sequence[tuple], groups: Mapping[tuple, Any]) -> list[tuple]:
    """Keys in an order of which any beginning has as many of each group as it can: each group's first, then second."""
    seen: dict[Any, int] = {}
    turns = []
    for key in keys:
        turns.append(seen.setdefault(groups[key], 0))
        seen[groups[key]] += 1
    return [keys[place] for place in sorted(range(len(keys)), key=turns.__getitem__)]


def embedded(
    rows: Sequence[Sequence[Any]], read: Callable[[Any], np.ndarray], *, budget: int = BUDGET
) -> list[list[str]]:
    """The images of rows as data URLs: as many of the first rows as fit into `budget` bytes with what is said of them.

    `read` gives an image, uint8 `[h, w, 3]`, from what stands in rows. They are PNGs as they are where all fit, else
    WebPs of at most `SIDE` pixels a side.
    """
    for encode in (_as_png, _as_webp):
        found: list[list[str]] = []
        left = budget
        for row in rows:
            line = [encode(read(place)) for place in row]
            left -= sum(map(len, line)) + MARKUP * len(line)
            if left < 0:
                break
            found.append(line)
        if len(found) == len(rows):
            break
    return found


def _as_png(image: np.ndarray) -> str:
    return _data_url(Image.fromarray(image), "PNG", "image/png")


def _as_webp(image: np.ndarray) -> str:
    picture = Image.fromarray(image)
    picture.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)
    return _data_url(picture, "WEBP", "image/webp", quality=80)


def _data_url(picture: Image.Image, form: str, mime: str, **options: int) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, form, **options)
    return f"data:{mime};base64,{base64.b64encode(buffer.getvalue()).decode()}"


@dataclass(frozen=True)
class Shot:
    """An image on the page: by which method, itself as a URL, the verdict on it, and where it is."""

    method: str
    image: str
    state: str
    said: str
    picture: str

    @property
    def command(self) -> str:
        """The command that says what made it."""
        return f"lethe trace {shlex.quote(self.picture.rpartition('/')[0])}"

    @property
    def member(self) -> str:
        """Its name in the zip of its shard."""
        return self.picture.rpartition("/")[2]


@dataclass(frozen=True)
class Line:
    """A row of the page: a prompt and a seed in one role, and its images."""

    role: str
    concept: str
    prompt: str
    seed: int
    shots: list[Shot]

    @property
    def fails(self) -> list[str]:
        """The methods that fail here."""
        return [shot.method for shot in self.shots if shot.state == "fail"]


def lines_of(samples: pd.DataFrame, read: Callable[[str], np.ndarray], *, budget: int = BUDGET) -> list[Line]:
    """The rows of the page, worst first, from what `judged` gives; `read` gives the image of a `picture`.

    Where not all fit, there are as many of each role and concept as can be, the worst of each.
    """
    of_row = dict(iter(samples.groupby(ROW, sort=False)))
    keys = worst_first(samples)
    groups = {key: (key[0], of_row[key]["type"].iloc[0]) for key in keys}
    order = in_turns(keys, groups)
    images = embedded([list(of_row[key]["picture"]) for key in order], read, budget=budget)
    shown = dict(zip(order, images, strict=False))
    found = []
    for key in (key for key in keys if key in shown):
        rows = of_row[key].to_dict("records")
        shots = [
            Shot(row["method"], image, row["state"], row["said"], row["picture"])
            for row, image in zip(rows, shown[key], strict=True)
        ]
        first = rows[0]
        found.append(Line(first["role"], first["type"], first["prompt"], int(first["evaluation_seed"]), shots))
    return found


def better(number: str, towards: Mapping[str, str]) -> str:
    """Whether a number should be low or high; `towards` says what the rows count that make some of them."""
    if number.startswith(("fid", "kid", "exposed", "images_")):
        return LESS
    if number in towards:
        return LESS if towards[number] == "erased" else MORE
    return MORE if number.startswith(("h_", "clip_score")) else ""


def numbers_of(found: pd.DataFrame, towards: Mapping[str, str]) -> list[dict[str, Any]]:
    """The numbers of a task for the page, as the step of tables lists them: a row for each, a cell for each method."""
    rows = []
    for number, of in found.groupby("number", sort=False):
        protocol = of["protocol"].iloc[0]
        means = known().get(name_of(protocol), {}).get("means", "")
        cells = {row["method"]: _cell(row) for row in of.to_dict("records")}
        rows.append(dict(name=number, protocol=protocol, means=means, better=better(number, towards), cells=cells))
    return rows


def concepts_of(found: pd.DataFrame) -> list[dict[str, Any]]:
    """Numbers by concept for the page, from `<table>_by_concept.csv`: a row for each role and concept, worst first.

    The worst is that of which the largest share of some edit's images fails.
    """
    rows = []
    for (role, concept), of in found.groupby(["role", "concept"], sort=False):
        records = of.to_dict("records")
        shares = [row["failed"] / row["n"] for row in records if row["n"] and row["method"] != ORIGINAL]
        share = max((share for share in shares if not math.isnan(share)), default=0.0)
        cells = {row["method"]: _cell(row) | _failing(row) for row in records}
        rows.append(dict(role=role, concept=concept, number=of["number"].iloc[0], cells=cells, share=share))
    return sorted(rows, key=lambda row: -row["share"])


def _cell(row: Mapping[str, Any]) -> dict[str, str]:
    """A number in words, its n and its interval."""
    between = f"{row['low_95']:.1f} to {row['high_95']:.1f}" if pd.notna(row["low_95"]) else ""
    n = "" if pd.isna(row["n"]) else f"{int(row['n'])}"
    return dict(value="none" if pd.isna(row["value"]) else f"{row['value']:.1f}", n=n, interval=between)


def _failing(row: Mapping[str, Any]) -> dict[str, Any]:
    """How many images of a concept fail, which, and what a bar shows where the number is a percentage."""
    share = pd.notna(row["failed"]) and pd.notna(row["value"])
    bar = [round(row[key], 1) for key in ("value", "low_95", "high_95")] if share else None
    return dict(failed=0 if pd.isna(row["failed"]) else int(row["failed"]), seeds=row["failing_seeds"], bar=bar)


def page(
    lines: Sequence[Line],
    *,
    task: str,
    erased: Sequence[str],
    base: str,
    methods: Sequence[str],
    roles: Sequence[str],
    rows: int,
    numbers: Sequence[Mapping[str, Any]] = (),
    concepts: Sequence[Mapping[str, Any]] = (),
    veiled: bool = False,
    drawing: str = "",
) -> Iterator[str]:
    """The page, in parts. `rows` is how many there are, of which it shows `lines`; `veiled` images are blurred first.

    Whatever stands in a name or a prompt is text there, and the page asks for nothing from anywhere.
    """
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(PAGE.read_text(encoding="utf-8"))
    shown = list(dict.fromkeys(line.concept for line in lines))
    return template.generate(
        lines=lines,
        task=task,
        erased=erased,
        base=base,
        methods=methods,
        roles=[(role, WORDS.get(role, role)) for role in roles],
        words=WORDS,
        rows=rows,
        numbers=numbers,
        concepts=concepts,
        shown=sorted(name for name in shown if name),
        fails=sum(bool(line.fails) for line in lines),
        judged=any(shot.state in ("fail", "hold") for line in lines for shot in line.shots),
        veiled=veiled,
        drawing=drawing,
        original=ORIGINAL,
    )
