"""Whom the first face of an image shows, by the classifier of celebrities that GIPHY published.

Its own program needs TensorFlow 1 and Python 3.6. This is written anew from what its files hold: labels, and the
weights of a ResNet-50 with two linear layers behind it. They are a pickle, of which nothing but tensors is loaded.
"""

from __future__ import annotations

import hashlib
import io
import pickle
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor
from torchvision.models import resnet50

from lethe.files.shards import image_names
from lethe.files.tables import parse_table
from lethe.finite import require_finite
from lethe.measures import faces

LABELS, WEIGHTS = "face_recognition/labels.csv", "face_recognition/best_model_states.pkl"
LABEL = re.compile(r".+_\[.+\]")  # Name_Surname_[id]
SIDE, EMBEDDED = 224, 256  # pixels of a face as the network sees it; width of what stands before its last layer
BROKEN = "the classifier's weights are broken, download them again"


class Classifier(torch.nn.Module):
    """From faces `[n, 3, 224, 224]`, values from 0 to 1, to the classes' logits `[n, classes]`."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.stem = resnet50()
        self.stem.fc = torch.nn.Identity()
        self.fc1 = torch.nn.Linear(2048, EMBEDDED)
        self.fc2 = torch.nn.Linear(EMBEDDED, classes)

    def forward(self, pixels: Tensor) -> Tensor:
        return self.fc2(self.fc1(self.stem(pixels)))


@dataclass(frozen=True)
class Recogniser:
    """A detector of faces, a classifier of them with its labels, and how much wider than its box a face is cut out."""

    detector: Any
    classifier: Classifier
    labels: Sequence[str]
    margin: float
    device: torch.device


def load(settings: Mapping[str, Any], device: torch.device) -> Recogniser:
    """MTCNN, and GIPHY's classifier from its folder `resources`.

    Raises ValueError as `lethe.measures.faces.load`, `read_labels` and `read_classifier`.
    """
    folder = Path(settings["resources"])
    labels = read_labels(folder / LABELS)
    classifier = read_classifier(folder / WEIGHTS, len(labels), sha256=settings["sha256"]).to(device)
    return Recogniser(faces.load(settings, device), classifier, labels, settings["margin"], device)


def measure(
    model: Recogniser, images: Iterator[np.ndarray], rows: pd.DataFrame, *, batch: int = 64
) -> dict[str, Sequence]:
    """Whom the first face, that of the best score, of each image (RGB, uint8 `[h, w, 3]`) shows.

    faces: how many there are.  identity: the label of the highest probability, such as Name_Surname_[id], '' without a
    face.  probability: that of the label, NaN without a face.
    Raises ValueError, naming the image, for a probability that is no number.
    """
    counts, crops = [], {}
    for number, image in enumerate(images):
        boxes, _ = faces.faces_in(model.detector, image)
        counts.append(len(boxes))
        if len(boxes):
            crops[number] = face_pixels(image, boxes[0], margin=model.margin)
    labels, best = [""] * len(counts), [float("nan")] * len(counts)
    places, images_called = list(crops), image_names(rows)
    for start in range(0, len(places), batch):
        some = places[start : start + batch]
        found = probabilities(model, np.stack([crops[place] for place in some]))
        names = [images_called[place] for place in some]
        require_finite(found, of="probabilities of labels", names=names, mend=BROKEN)
        for place, shares in zip(some, found, strict=True):
            labels[place], best[place] = model.labels[int(shares.argmax())], float(shares.max())
    return {"faces": counts, "identity": labels, "probability": best}


@torch.no_grad()
def probabilities(model: Recogniser, crops: np.ndarray) -> np.ndarray:
    """The probability of each label, float32 `[n, labels]`, for faces as `face_pixels` gives them."""
    return model.classifier(torch.from_numpy(crops).to(model.device)).softmax(dim=1).cpu().numpy()


def face_pixels(image: np.ndarray, box: np.ndarray, *, margin: float) -> np.ndarray:
    """A face as the classifier sees it, float32 `[3, 224, 224]`, from 0 to 1, of an image in RGB, uint8 `[h, w, 3]`.

    `box` (left, top, right, bottom) is widened by `margin` of its size, half on each side, cut at the image's edges and
    at whole pixels, and resized by Pillow's bilinear filter, whatever its shape.
    """
    height, width = image.shape[:2]
    left, top, right, bottom = (float(side) for side in box)
    wider, higher = margin * (right - left) / 2, margin * (bottom - top) / 2
    left, top = min(max(left - wider, 0), width - 1), min(max(top - higher, 0), height - 1)
    right, bottom = max(min(right + wider, width), left + 1), max(min(bottom + higher, height), top + 1)
    crop = Image.fromarray(image).crop((int(left), int(top), int(right), int(bottom)))
    return np.asarray(crop.resize((SIDE, SIDE), Image.BILINEAR), np.float32).transpose(2, 0, 1) / 255


def read_labels(path: Path) -> list[str]:
    """The labels of the classes, in their order: those of the table's column that holds such, sorted.

    Raises ValueError, naming the file, when it has no column of labels or one is there twice.
    """
    header, rows = parse_table(path.read_bytes(), path, separator=",", fill=True)
    columns = list(zip(*(cells for _, cells in rows), strict=True)) or [()] * len(header)
    labels = next((sorted(cells) for cells in columns if cells and all(map(LABEL.fullmatch, cells))), None)
    if labels is None:
        raise ValueError(f"{path}: it has no column of labels such as Name_Surname_[id]; take the classifier's own")
    if twice := next((one for one, other in pairwise(labels) if one == other), None):
        raise ValueError(f"{path}: the label {twice!r} is there twice; take the classifier's own")
    return labels


def read_classifier(path: Path, classes: int, *, sha256: str | None) -> Classifier:
    """The network of so many classes whose weights stand under `model.` in the checkpoint's `model_state`.

    What else is there, such as the centres of its center loss, is left out. Parts of the stem may have torchvision's
    names or the numbers of their order.

    Raises ValueError, naming the file, when its SHA-256 is another, it holds anything but tensors and plain values, or
    a weight is missing or has another shape.
    """
    content = path.read_bytes()
    if sha256 is not None and (found := hashlib.sha256(content).hexdigest()) != sha256:
        raise ValueError(f"{path}: its SHA-256 is {found}, not {sha256} as the measure's key sha256 says; correct one")
    try:
        state = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)["model_state"]
        stored = {name.removeprefix("model."): value for name, value in state.items() if name.startswith("model.")}
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, TypeError, AttributeError) as error:
        told = "this is no checkpoint of tensors alone, with a model_state, and nothing else of a pickle is loaded"
        raise ValueError(f"{path}: {told} ({str(error).strip().partition(chr(10))[0]}); take GIPHY's own") from None
    with torch.device("meta"):  # whose weights are not drawn for nothing
        network = Classifier(classes)
    numbers = {str(number): name for number, (name, _) in enumerate(network.stem.named_children())}
    named = {}
    for name, value in stored.items():
        parts = name.split(".")
        if parts[0] == "stem" and len(parts) > 1:
            parts[1] = numbers.get(parts[1], parts[1])
        named[".".join(parts)] = value
    weights = {}
    for name, wanted in network.state_dict().items():
        if name.endswith("num_batches_tracked"):  # which older files lack, and which matters while training alone
            weights[name] = torch.zeros((), dtype=wanted.dtype)
            continue
        shape = tuple(getattr(named.get(name), "shape", ()))
        if shape != tuple(wanted.shape):
            told = f"holds model.{name} of the shape {list(shape)}" if name in named else f"lacks model.{name}"
            of = f"the network for the {classes} labels of {LABELS}"
            raise ValueError(f"{path}: it {told}, and {of} has one of {list(wanted.shape)}; take GIPHY's own files")
        weights[name] = named[name].float()
    network.load_state_dict(weights, assign=True)
    return network.eval().requires_grad_(False)
