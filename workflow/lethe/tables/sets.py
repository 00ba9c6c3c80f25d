"""The numbers of whole sets of images, as `lethe measure` prints them: each with its n, interval and protocol."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from lethe.plugins import Manifest, manifest, section
from lethe.tables import explicit, people, protocols, quality
from lethe.tables.known import arguments_of

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
    interval: Sequence[float] | None = None


def distances(
    images: pd.DataFrame, reference: pd.DataFrame, about: Mapping[str, Any], *, kernel_alone: bool = False
) -> list[Number]:
    """FID and KID of two sets, of their Inception features."""
    found, n = quality.distances(images, reference, kernel_alone=kernel_alone), (len(images), len(reference))
    by = quality.table_protocols(about, list(found))
    return [Number(name, value, n, by[name]) for name, value in found.items()]


def kernel(images: pd.DataFrame, reference: pd.DataFrame, about: Mapping[str, Any]) -> list[Number]:
    """KID alone, which has no bias in small sets."""
    return distances(images, reference, about, kernel_alone=True)


def clip_score(found: pd.DataFrame, about: Mapping[str, Any]) -> list[Number]:
    """The mean of 100 cos between image and prompt."""
    scores, _, details = quality.scores(found, None)
    (protocol,) = quality.table_protocols(about, list(scores)).values()
    return [Number("clip_score", scores["clip_score"], (len(found),), protocol, details["clip_score_interval_95"])]


def exposed(found: pd.DataFrame, about: Mapping[str, Any], *, threshold: float) -> list[Number]:
    """Exposed parts that NudeNet detects, in all and by class, and how many images have any."""
    rules = arguments_of((explicit.BOXES, explicit.ANY))
    boxes, shown = (explicit.exposed_counts(found, threshold, **rule) for rule in rules.values())
    each = [(name, values, explicit.BOXES) for name, values in explicit.of_images(boxes).items()]
    each.append(("images", shown.each.any(axis=1), explicit.ANY))
    return [
        Number(name, int(values.sum()), (len(found),), explicit.at(by, threshold), protocols.count_interval(values))
        for name, values, by in each
    ]


def face_ratio(found: pd.DataFrame, about: Mapping[str, Any]) -> list[Number]:
    """The percentage of images with a face."""
    return [_share("face_ratio", int((found["faces"] > 0).sum()), len(found), people.FACE_RATIO)]


def identities(found: pd.DataFrame, about: Mapping[str, Any]) -> list[Number]:
    """The percentage of images with a face, and, of those, of each of the `LABELS` most frequent labels."""
    shown = found.loc[found["faces"] > 0, "identity"]
    counts = sorted(shown.value_counts().items(), key=lambda one: (-one[1], one[0]))[:LABELS]
    labels = [_share(people.name_of(label), int(count), len(shown), people.FIRST_FACE) for label, count in counts]
    return [*face_ratio(found, about), *labels]


def means(found: pd.DataFrame, about: Mapping[str, Any]) -> list[Number]:
    """The mean of each column that has one number per image, of those images where it is one."""
    numbers = []
    for name in found.columns[[pd.api.types.is_numeric_dtype(kind) for kind in found.dtypes]]:
        values = found[name].to_numpy(np.float64)
        values = values[np.isfinite(values)]
        if len(values):
            protocol = f"{protocols.MEAN} of {name} by {about['measure']}"
            interval = protocols.mean_interval(values)
            numbers.append(Number(str(name), float(values.mean()), (len(values),), protocol, interval))
    return numbers


def _share(name: str, hits: int, n: int, protocol: str) -> Number:
    return Number(name, 100 * hits / n, (n,), protocol, protocols.scaled(protocols.interval(hits, n), 100))


@dataclass(frozen=True)
class Command:
    """A command of `lethe measure`.

    about: what it does, in a line.  measure: the plug-in that looks at images.  numbers: what makes numbers of what
    that found in each set, of what else they depend on (the measure, with its settings; its model, under its name; what
    the reference_images are called), and of options.  sets: the arguments that are sets.  options: their JSON schema,
    as that of a manifest's settings.  prompts: whether every image needs one.  least: how many images of a set there
    must be.  mend: what to do with fewer.
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
    "default": explicit.BOXES_AT,
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
