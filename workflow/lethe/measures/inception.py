"""Features of clean-fid's Inception network: the measure behind FID and KID as the package clean-fid computes them.

Its mode `clean`: Pillow's bicubic filter, channel by channel in float32, to 299 x 299, then the network that NVIDIA
translated from the TensorFlow graph of 2015 (arXiv 2104.11222). The network is a TorchScript file. That is a program,
which loading makes run, so only a content with a known SHA-256 is loaded.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from cleanfid.downloads_helper import inception_url
from cleanfid.inception_torchscript import InceptionV3W
from cleanfid.resize import build_resizer

from lethe.files.downloads import download
from lethe.files.shards import image_names
from lethe.finite import require_finite

FILE = "inception-2015-12-05.pt"  # the name that clean-fid's class looks for in a folder
KEPT = Path("/tmp") / FILE  # where clean-fid looks for the network, and leaves what it has fetched
BROKEN = "the Inception network is broken, download it again"


@dataclass(frozen=True)
class Extractor:
    """clean-fid's network and where it runs."""

    network: InceptionV3W
    device: torch.device


def load(settings: Mapping[str, Any], device: torch.device) -> Extractor:
    """clean-fid's network, of the file `weights`; of null, from where clean-fid keeps it, fetched if it is not there.

    Raises ValueError when it cannot be fetched, its SHA-256 is not `sha256`, or it is no such network.
    """
    path = KEPT if settings["weights"] is None else Path(settings["weights"])
    if settings["weights"] is None and not path.is_file():
        _fetch(path, settings["sha256"])
    content = path.read_bytes()
    found = hashlib.sha256(content).hexdigest()
    if settings["sha256"] is not None and found != settings["sha256"]:
        told = f"its SHA-256 is {found}, not {settings['sha256']} as the measure's key sha256 says"
        raise ValueError(f"{path}: {told}, so its code is not run; put there what {inception_url} has")
    with tempfile.TemporaryDirectory() as folder:  # a copy of what was checked, which nobody else can change
        (Path(folder) / FILE).write_bytes(content)
        try:
            return Extractor(InceptionV3W(folder, download=False).to(device).eval(), device)
        except (RuntimeError, AttributeError) as error:
            first = str(error).strip().partition("\n")[0]
            told = f"this is no TorchScript network of clean-fid's ({first})"
            raise ValueError(f"{path}: {told}; put there what {inception_url} has") from None


def _fetch(path: Path, sha256: str | None) -> None:
    """Fetch the network from clean-fid's address; several jobs may do so at once."""
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        part = Path(folder) / FILE
        try:
            download(inception_url, part, sha256)
        except ValueError as error:
            mend = "fetch it where there is a network, and let the measure's key weights name the file"
            raise ValueError(f"{path}: there is no Inception network, and {error}; {mend}") from None
        part.replace(path)


@torch.no_grad()
def measure(
    model: Extractor, images: Iterator[np.ndarray], rows: pd.DataFrame, *, batch: int = 64
) -> dict[str, np.ndarray]:
    """Features of images in RGB, uint8 `[h, w, 3]`, as clean-fid computes them of the images' files.

    features: float32 `[n, 2048]`. Raises ValueError, naming the image, for one that is not finite.
    """
    resize, parts = build_resizer("clean"), []
    while some := list(islice(images, batch)):
        pixels = [torch.from_numpy(resize(image)).permute(2, 0, 1) for image in some]  # from 0 to 255
        parts.append(model.network(torch.stack(pixels).to(model.device)).cpu().numpy())
    features = np.concatenate(parts)
    require_finite(features, of="Inception features", names=image_names(rows), mend=BROKEN)
    return {"features": features}
