"""A stand-in for clean-fid's network, of random weights with the interface of NVIDIA's file, which is not at hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from cleanfid import fid
from cleanfid.inception_torchscript import InceptionV3W
from PIL import Image

from conftest import CPU
from lethe.files.shards import image_name
from lethe.measures.inception import FILE


class Layers(torch.nn.Module):
    """From pixels between -1 and 1, `[n, 3, 299, 299]`, to features `[n, 2048, 1, 1]`, all of them above 0."""

    def __init__(self) -> None:
        super().__init__()
        self.look = torch.nn.Conv2d(3, 8, 13, stride=13)
        self.widen = torch.nn.Linear(8 * 3 * 3, 2048)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.nn.functional.adaptive_avg_pool2d(self.look(x).relu(), 3).flatten(1)
        return self.widen(x * 30).sigmoid()[:, :, None, None]


class Network(torch.nn.Module):
    """What NVIDIA's file holds as far as clean-fid's mode `clean` looks: `layers`, which get scaled pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = Layers()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def save_network(path: Path) -> Path:
    """Write the network as TorchScript."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        torch.jit.script(Network()).save(str(path))
    return path


def drawn(folder: Path, count: int, seed: int, darkest: float) -> Path:
    """A folder of pictures of several sizes and modes, named as those of a shard, of few patches of colour each."""
    folder.mkdir()
    rng = np.random.default_rng(seed)
    for row in range(count):
        height, width = rng.integers(20, 90, 2) if row % 3 else (400, 330)
        pixels = rng.integers(0, 256, (6, 5, 3) if row % 4 else (6, 5), dtype=np.uint8)
        pixels = (pixels * rng.uniform(darkest, 1, pixels.shape[2:])).astype(np.uint8)
        Image.fromarray(pixels).resize((int(width), int(height)), Image.BICUBIC).save(folder / image_name(row))
    return folder


def network_by_hand(weights: Path, folder: Path) -> torch.nn.Module:
    """A network loaded as clean-fid loads it, from a folder that it is written to."""
    (folder / FILE).write_bytes(weights.read_bytes())
    return InceptionV3W(str(folder), download=False).eval()


def features_by_hand(weights: Path, folder: Path, tmp_path: Path) -> np.ndarray:
    """What clean-fid computes of a folder."""
    network = network_by_hand(weights, tmp_path)
    return fid.get_folder_features(str(folder), network, num_workers=0, batch_size=64, device=CPU, verbose=False)
