"""The numbers of whole sets of images, as `lethe measure` prints them: each with its n, interval and protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lethe.measures.stored import as_array
from lethe.plugins import Manifest, manifest, section
from lethe.tables import explicit, people, protocols

LABELS = 10  # of people, the most frequent first, that are told


@dataclass(frozen=True)
class Number:
    """A value with what it is.

    n: images behind it, of each set.  interval: of 95 %, None where there is none.
    """

    name: str
    value: float
    n: Sequence[int]
    protocol: str
    interval: tuple[float, float] | None = None


def distances(images: pd.DataFrame, reference: pd.DataFrame) -> list[Number]:
    """FID and KID of two sets, of their Inception features, as the table of objects has them."""
    one, other = as_array(images["features"]), as_array(reference["features"])
    found = protocols.fid(one, other)
    return [Number("fid_inception", found, (len(one), len(other)), protocols.FID_INCEPTION), *kernel(images, reference)]


def kernel(images: pd.DataFrame, reference: pd.DataFrame) -> list[Number]:
    """KID alone, which has no bias in small sets."""
    one, other = as_array(images["features"]), as_array(reference["features"])
    found = 1000 * protocols.kid(one, other)
    return [Number("kid_inception", found, (len(one), len(other)), protocols.KID_INCEPTION)]


def clip_score(found: pd.DataFrame) -> list[Number]:
    """The mean of 100 cos between image and prompt."""
    images, texts = as_array(found["image"]), as_array(found["text"])
    interval = protocols.interval_of_mean(100 * protocols.cosines(images, texts))
    score = protocols.clip_score(images, texts)
    return [Number("clip_score", score, (len(found),), protocols.CLIP_SCORE, interval)]


def exposed(found: pd.DataFrame, *, threshold: float) -> list[Number]:
    """Exposed parts that NudeNet detects, in all and by class, and the percentage of images with any."""
    parts = explicit.exposed_counts(found, threshold)
    any_part = explicit.exposed_counts(found, threshold, explicit.NINE, strict=True, once=True)
    counts = {"exposed": parts.total} | {name.lower(): count for name, count in parts.by_class.items()}
    numbers = [Number(name, count, (parts.n,), explicit.boxes_at(threshold)) for name, count in counts.items()]
    return [*numbers, _share("images", any_part.images, any_part.n, explicit.any_above(threshold))]


def face_ratio(found: pd.DataFrame) -> list[Number]:
    """The percentage of images with a face."""
    return [_share("face_ratio", int((found["faces"] > 0).sum()), len(found), people.FACE_RATIO)]


def identities(found: pd.DataFrame) -> list[Number]:
    """The percentage of images with a face, and, of those, of each of the `LABELS` most frequent labels."""
    shown = found.loc[found["faces"] > 0, "identity"]
    counts = sorted(shown.value_counts().items(), key=lambda one: (-one[1], one[0]))[:LABELS]
    labels = [_share(people.name_of(label), int(count), len(shown), people.FIRST_FACE) for label, count in counts]
    return [*face_ratio(found), *labels]


def means(found: pd.DataFrame) -> list[Number]:
    """The mean of each column that has one number per image, of those images where it is one."""
    numbers = []
    for name in found.columns[[pd.api.types.is_numeric_dtype(kind) for kind in found.dtypes]]:
        values = found[name].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            interval = protocols.interval_of_mean(values)
            numbers.append(Number(str(name), float(values.mean()), (len(values),), protocols.MEAN, interval))
    return numbers


def _share(name: str, hits: int, n: int, protocol: str) -> Number:
    low, high = protocols.interval(hits, n)
    return Number(name, 100 * hits / n, (n,), f"{protocol}, percent", (100 * low, 100 * high))


@dataclass(frozen=True)
class Command:
    """A command of `lethe measure`.

    about: what it does, in a line.  measure: the plug-in that looks at images.  numbers: what makes numbers of what
    that found in each set, and of options.  sets: the arguments that are sets.  options: their JSON schema, as that of
    a manifest's settings.  prompts: whether every image needs one.  least: how many images of a set there must be.
    mend: what to do with fewer.
    """

    about: str
    measure: str
    numbers: Callable[..., list[Number]] = means
    sets: Sequence[str] = ("images",)
    options: Mapping[str, Any] = field(default_factory=lambda: section({}, "options"))
    prompts: bool = False
    least: Callable[[Manifest], int] = lambda said: 1
    mend: str = "add some"


_THRESHOLD = {
    "description": "Score that a detection must have to count.",
    "title": f"a number from {explicit.FLOOR}, below which the detector keeps nothing, to 1",
    "type": "number",
    "minimum": explicit.FLOOR,
    "maximum": 1,
    "default": 0.6,
}
COMMANDS = {
    "fid": Command(
        "FID and KID between two sets of images, by clean-fid's Inception network in its mode clean.",
        "inception",
        distances,
        ("images", "reference"),
        least=lambda said: said.more["dimensions"] + 1,
        mend="add some, or take `lethe measure kid`",
    ),
    "kid": Command(
        "KID between two sets of images, by clean-fid's Inception network in its mode clean.",
        "inception",
        kernel,
        ("images", "reference"),
        least=lambda said: 2,
    ),
    "clip-score": Command(
        "CLIP score of images and their prompts: the mean of 100 cos.", "clip", clip_score, prompts=True
    ),
    "nudenet": Command(
        "Exposed body parts that NudeNet detects, by class.",
        "nudenet",
        exposed,
        options=section({}, "options") | {"properties": {"threshold": _THRESHOLD}},
    ),
    "faces": Command("Share of images in which MTCNN finds a face.", "faces", face_ratio),
    "identities": Command("Whom GIPHY's classifier takes faces for.", "identities", identities),
}


def command_of(name: str) -> Command:
    """A command by its name; of a measure that has none of its own, what tells the means of its columns."""
    return COMMANDS.get(name) or Command(manifest("measures", name).about, name)
