"""Where a concept is in an image: text-prompted segmentation."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from lethe.bases.folder import model_folder
from lethe.bases.loading import (
    check_image_side,
    check_words,
    check_words_there,
    load_network,
    load_processor,
    load_tokenizer,
    square_side,
)
from lethe.finite import require_finite
from lethe.inputs.templates import fill

if TYPE_CHECKING:
    from transformers import (
        BaseImageProcessor,
        CLIPSegForImageSegmentation,
        CLIPTokenizer,
        GroundingDinoForObjectDetection,
        GroundingDinoProcessor,
        SamModel,
        SamProcessor,
    )

log = logging.getLogger(__name__)

BROKEN = "the segmenter's weights are broken, download them again"

Segmenter = Callable[[Sequence[np.ndarray], str], tuple[np.ndarray, np.ndarray]]


def concept_masks(
    images: Sequence[np.ndarray],
    concept: str,
    settings: Mapping[str, Any],
    *,
    device: torch.device,
    numbers: Sequence[int] | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of a concept in its images (uint8 `[h, w, 3]`, all alike), bool `[n, h, w]`, and how often it was found.

    `settings` are `lethe.config.resolve.mask_settings`; `numbers` are the images' for messages, by default from 0.
    Finds are int `[n]`: boxes for grounded-sam, else 1; 0 where nothing was found, for which see `with_full_frames`.
    """
    if settings["segmenter"] == "full-frame":
        return full_frames(images), np.ones(len(images), int)
    masks, found = load_segmenter(settings, device=device)(images, concept)
    numbers = range(len(images)) if numbers is None else numbers
    wanted = dict(concept=concept, when_nothing_found=settings["when_nothing_found"])
    return with_full_frames(masks, found, numbers=numbers, **wanted), found


def load_segmenter(settings: Mapping[str, Any], *, device: torch.device) -> Segmenter:
    """The segmenter of some settings with its models in float32: (images, concept) to masks and numbers of finds.

    `settings` has the keys segmenter (clipseg or grounded-sam), prompt (a template, {} stands for the concept) and
    those of the segmenter's section in the configuration. What comes back is said at `clipseg_masks` and
    `grounded_sam_masks`.
    """
    if settings["segmenter"] == "clipseg":
        parts = load_clipseg(settings["model"], settings["revision"], device=device)
        return lambda images, concept: clipseg_masks(
            *parts, images, fill(settings["prompt"], concept), threshold=settings["threshold"]
        )
    detector, sam = settings["detector"], settings["sam"]
    parts = (
        *load_detector(detector["model"], detector["revision"], device=device),
        *load_sam(sam["model"], sam["revision"], device=device),
    )
    thresholds = {key: settings[key] for key in ("box_threshold", "text_threshold")}
    return lambda images, concept: grounded_sam_masks(
        *parts, images, detection_caption(settings["prompt"], concept), **thresholds
    )


def _folder(model: str, revision: str | None, key: str) -> tuple[Path, str]:
    """A model's folder, and its name for messages."""
    return model_folder(model, revision, key=key), f"{key}: {model}"


def load_clipseg(
    model: str, revision: str | None, *, device: torch.device
) -> tuple[CLIPSegForImageSegmentation, CLIPTokenizer, BaseImageProcessor]:
    """A CLIPSeg folder or hub id in float32, with its tokenizer and image processor.

    Raises ValueError, naming the model, when it is no whole CLIPSeg (`lethe.bases.loading`).
    """
    from transformers import AutoImageProcessor, CLIPSegForImageSegmentation

    folder, model = _folder(model, revision, "masks.clipseg.model")
    network = load_network(CLIPSegForImageSegmentation, folder, dtype=torch.float32, model=model)
    tokenizer = load_tokenizer(folder, network.config.text_config, model=model)
    processor = load_processor(AutoImageProcessor, folder, model=model)
    # It stretches its position embeddings to any size, of whole patches.
    patch = network.config.vision_config.patch_size
    check_image_side(square_side(processor), square_side(processor) // patch * patch, model=model)
    return network.to(device), tokenizer, processor


def load_detector(
    model: str, revision: str | None, *, device: torch.device
) -> tuple[GroundingDinoForObjectDetection, GroundingDinoProcessor]:
    """A GroundingDINO folder or hub id in float32, with its processor. Raises ValueError as `load_clipseg`."""
    from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor

    folder, model = _folder(model, revision, "masks.grounded-sam.detector.model")
    network = load_network(GroundingDinoForObjectDetection, folder, dtype=torch.float32, model=model)
    check_words_there(folder, model)
    processor = load_processor(GroundingDinoProcessor, folder, model=model)
    check_words(processor.tokenizer, network.config.text_config, folder, model)
    return network.to(device), processor


def load_sam(model: str, revision: str | None, *, device: torch.device) -> tuple[SamModel, SamProcessor]:
    """A SAM folder or hub id in float32, with its processor. Raises ValueError as `load_clipseg`."""
    from transformers import SamModel, SamProcessor

    folder, model = _folder(model, revision, "masks.grounded-sam.sam.model")
    network = load_network(SamModel, folder, dtype=torch.float32, model=model)
    processor = load_processor(SamProcessor, folder, model=model)
    pad = processor.image_processor.pad_size
    check_image_side(int(pad["height"]), network.config.vision_config.image_size, model=model)
    return network.to(device), processor


@torch.no_grad()
def clipseg_masks(
    clipseg: CLIPSegForImageSegmentation,
    tokenizer: CLIPTokenizer,
    processor: BaseImageProcessor,
    images: Sequence[np.ndarray],
    prompt: str,
    *,
    threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of what `prompt` names, bool `[n, h, w]` in the images' size (uint8 `[h, w, 3]`, all alike).

    CLIPSeg reads squares: an image of another shape is squeezed whole into one, and what the model says is stretched
    back over all of it. Also returns, int `[n]`, 1 for each image in which a pixel is above `threshold`, else 0.
    """
    side = square_side(processor)
    squares = processor(
        images=list(images), size={"height": side, "width": side}, do_center_crop=False, return_tensors="pt"
    )
    ids = tokenizer([prompt] * len(images), padding="max_length", truncation=True, return_tensors="pt").input_ids
    logits = clipseg(input_ids=ids.to(clipseg.device), pixel_values=squares.pixel_values.to(clipseg.device)).logits
    require_finite(logits.reshape(len(images), -1), of="CLIPSeg's logits", names=_numbered(images), mend=BROKEN)
    logits = resized(logits.float(), images[0].shape[:2])
    masks = (logits.sigmoid() > threshold).cpu().numpy()
    return masks, masks.any(axis=(1, 2)).astype(int)


def _numbered(images: Sequence[np.ndarray]) -> list[str]:
    return [f"image {number}" for number in range(len(images))]


def resized(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """CLIPSeg's logits (`[n, h, w]`, or `[h, w]` for one image) to `[n, *size]`, bilinear."""
    logits = logits.reshape(-1, 1, *logits.shape[-2:])
    return F.interpolate(logits, size=size, mode="bilinear", align_corners=False)[:, 0]


def grounded_sam_masks(
    detector: GroundingDinoForObjectDetection,
    detector_processor: GroundingDinoProcessor,
    sam: SamModel,
    sam_processor: SamProcessor,
    images: Sequence[np.ndarray],
    caption: str,
    *,
    box_threshold: float,
    text_threshold: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Masks of what `caption` names, bool `[n, h, w]` in the images' size (uint8 `[h, w, 3]`, all alike).

    A mask is the union of what SAM (arXiv 2304.02643) cuts out of each box that GroundingDINO (arXiv 2303.05499) finds.
    Also returns the number of boxes in each image, int `[n]`, 0 where the union is empty.
    """
    masks, found = [], []
    for image in images:
        thresholds = dict(box_threshold=box_threshold, text_threshold=text_threshold)
        boxes = find_boxes(detector, detector_processor, image, caption, **thresholds)
        mask = union_in_boxes(sam, sam_processor, image, boxes)
        masks.append(mask)
        found.append(len(boxes) if mask.any() else 0)
    return np.stack(masks), np.array(found)


@torch.no_grad()
def find_boxes(
    detector: GroundingDinoForObjectDetection,
    processor: GroundingDinoProcessor,
    image: np.ndarray,
    caption: str,
    *,
    box_threshold: float,
    text_threshold: float,
) -> Tensor:
    """Boxes of what `caption` names in an image (uint8 `[h, w, 3]`): float32 `[k, 4]`, x0, y0, x1, y1 in its pixels.

    A box counts if some token's probability is above `box_threshold` and a word's above `text_threshold`: what speaks
    for the full stop or the ends of the text alone shows nothing that the caption names.
    """
    inputs = processor(images=image, text=caption, return_tensors="pt").to(detector.device)
    found = detector(**inputs)
    for values in (found.logits.clamp(min=-1e30), found.pred_boxes):  # minus infinity stands where there is no word
        require_finite(values, of="what GroundingDINO says", mend=BROKEN)
    (result,) = processor.post_process_grounded_object_detection(
        found,
        inputs.input_ids,
        threshold=box_threshold,
        text_threshold=text_threshold,
        target_sizes=[image.shape[:2]],
    )
    tokenizer = processor.tokenizer
    no_words = "|".join(re.escape(token) for token in (tokenizer.cls_token, tokenizer.sep_token, tokenizer.pad_token))
    boxes = result["boxes"].float().cpu()
    labels = result["text_labels"][: len(boxes)]  # transformers gives one label, an empty one, when there is no box
    return boxes[torch.tensor([bool(re.search(r"\w", re.sub(no_words, "", label))) for label in labels], dtype=bool)]


@torch.no_grad()
def union_in_boxes(sam: SamModel, processor: SamProcessor, image: np.ndarray, boxes: Tensor) -> np.ndarray:
    """What SAM cuts out of any of the boxes (`[k, 4]`: x0, y0, x1, y1 in pixels), bool `[h, w]`; nothing for k = 0."""
    union = np.zeros(image.shape[:2], bool)
    if len(boxes) == 0:
        return union
    inputs = processor(images=image, input_boxes=[boxes.tolist()], return_tensors="pt")
    logits = sam(
        pixel_values=inputs.pixel_values.to(sam.device),
        input_boxes=inputs.input_boxes.float().to(sam.device),
        multimask_output=False,
    ).pred_masks[0]
    require_finite(logits, of="SAM's logits", mend=BROKEN)
    for logit in logits.float().cpu():  # one by one: each is enlarged to the size that SAM reads, 4 MB a box
        (mask,) = processor.post_process_masks([logit[None]], inputs.original_sizes, inputs.reshaped_input_sizes)
        union |= mask[0, 0].numpy()
    return union


def detection_caption(template: str, phrase: str) -> str:
    """The caption that GroundingDINO reads: the template filled with the phrase, in lower case, ending in a full stop.

    A full stop (or question mark) sets two captions apart, so those of the phrase become spaces; the template's stay.
    """
    words = " ".join(re.sub("[.?]", " ", phrase).split())
    caption = fill(template, words).strip().lower()
    return caption if caption.endswith(".") else f"{caption}."


def full_frames(images: Sequence[np.ndarray]) -> np.ndarray:
    """Masks that cover everything, bool `[n, h, w]`."""
    return np.ones((len(images), *images[0].shape[:2]), bool)


def with_full_frames(
    masks: np.ndarray, found: np.ndarray, *, numbers: Sequence[int], concept: str, when_nothing_found: str
) -> np.ndarray:
    """The masks (`[n, h, w]`), with the full frame where nothing was found (`found` `[n]` is 0), and a warning.

    `numbers` are the images' for messages. Raises ValueError, naming concept, images and settings, if something is
    missing and `when_nothing_found` is 'error' instead of 'full-frame'.
    """
    missed = [str(number) for number, count in zip(numbers, found, strict=True) if count == 0]
    if missed and when_nothing_found == "error":
        raise ValueError(
            f"masks: {concept!r} was not found in {len(missed)} of its {len(masks)} images (number "
            f"{', '.join(missed)}); lower the threshold, change masks.prompts, or set masks.when_nothing_found to "
            "full-frame"
        )
    for number in missed:
        log.warning("nothing found for %r in image %s: its mask is the full frame", concept, number)
    return masks | (np.asarray(found) == 0)[:, None, None]
