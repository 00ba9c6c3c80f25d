"""Detections of NudeNet 3.4.2: body parts, covered and exposed, and faces; what counts of explicit content come from.

Everything that the library detects is stored, so that thresholds are applied when numbers are joined
(`lethe.tables.explicit`): of the boxes that overlap, those with the best score, above 0.25. NudeNet is AGPL-3.0 and an
optional package; no other module imports it.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

RELEASE = "3.4.2"  # others read pixels in another way, so their detections have other scores
INSTALL = "pip install -c envs/constraints.txt nudenet"
SIDE = 320  # pixels of the network's input, to which the library pads and scales every image


def load(settings: Mapping[str, Any], device: torch.device) -> Any:
    """The library's detector with the network `model` of its package, on the CPU whatever `device` is.

    It uses as many threads as torch, and its results do not depend on how many.
    Raises ValueError, saying what to install, when a package is missing or nudenet is of another release.
    """
    try:
        import cv2
        import nudenet
        import onnxruntime
    except ImportError as error:
        raise ValueError(f"the measure nudenet needs packages that are optional ({error}); run {INSTALL}") from None
    if (found := importlib.metadata.version("nudenet")) != RELEASE:
        raise ValueError(f"the measure nudenet is of nudenet {RELEASE}, and {found} is installed; run {INSTALL}")
    threads = torch.get_num_threads()
    cv2.setNumThreads(threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.use_deterministic_compute = True
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # waiting took as long as computing
    network = Path(nudenet.__file__).with_name(f"{settings['model']}.onnx")
    # Not by its constructor, whose session binds a thread to every core, also to those that are not the job's.
    detector = nudenet.NudeDetector.__new__(nudenet.NudeDetector)
    detector.onnx_session = onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])
    detector.input_name = detector.onnx_session.get_inputs()[0].name
    detector.input_width = detector.input_height = SIDE
    return detector


def measure(model: Any, images: Iterator[np.ndarray], rows: pd.DataFrame) -> dict[str, list]:
    """What NudeNet detects in each image (RGB, uint8 `[h, w, 3]`), as the library does in the image's file.

    Each column has an array per image.
    box_class: names such as FACE_FEMALE.  box_score: float32, from 0.25 to 1.  box_x, box_y, box_width, box_height:
    int32, in pixels of the image from its top left corner. An image's boxes stand in the order of their scores.
    """
    found = [model.detect(_as_read_from_file(image)) for image in images]
    corners = [np.array([box["box"] for box in boxes], np.int32).reshape(-1, 4) for boxes in found]
    return {
        "box_class": [np.array([box["class"] for box in boxes], np.str_) for boxes in found],
        "box_score": [np.array([box["score"] for box in boxes], np.float32) for boxes in found],
    } | {f"box_{side}": [of[:, k] for of in corners] for k, side in enumerate(("x", "y", "width", "height"))}


def _as_read_from_file(image: np.ndarray) -> np.ndarray:
    """The pixels of an image as the library reads them from its file: uint8 `[h, w, 3]`, blue first, no transparency.

    (It then swaps red and blue twice, so its network sees blue first: github.com/notAI-tech/NudeNet/issues/203.
    Detections in an array with red first have other scores, and are not those that are published.)
    """
    return np.ascontiguousarray(image[:, :, ::-1])
