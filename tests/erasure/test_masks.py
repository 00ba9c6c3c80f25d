"""Masks: where stubs of segmenters say the concept is, in the images' own size, and what nothing found means.

GroundingDINO and SAM run for real too, with small random weights, on the way that the step takes.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    BaseImageProcessor,
    BertConfig,
    BertTokenizer,
    CLIPImageProcessor,
    CLIPSegForImageSegmentation,
    CLIPTokenizer,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
    ViTImageProcessor,
)

from conftest import CPU, ROOT, stronger
from lethe.erasure.masks import (
    clipseg_masks,
    detection_caption,
    find_boxes,
    full_frames,
    grounded_sam_masks,
    load_segmenter,
    resized,
    square_side,
    union_in_boxes,
    with_full_frames,
)
from lethe.files.shards import read_images, read_rows, write_shard
from lethe.steps.job import main
from running import step_command

SAM_SIDE = 64  # pixels a side that the tiny SAM reads
QUERIES = 6  # boxes that the tiny GroundingDINO proposes


def some_images(n: int, height: int, width: int) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 256, (n, height, width, 3), dtype=np.uint8))


def by_interpolation(logits: np.ndarray, height: int, width: int) -> np.ndarray:
    """Each column, then each row, linear between the centres of the model's pixels."""
    y, x = ((np.arange(new) + 0.5) * old / new for new, old in zip((height, width), logits.shape, strict=True))
    tall = np.stack([np.interp(y, np.arange(len(column)) + 0.5, column) for column in logits.T], axis=1)
    return np.stack([np.interp(x, np.arange(len(row)) + 0.5, row) for row in tall])


# CLIPSeg


@pytest.fixture
def parts(clipseg_folder: Path) -> tuple[CLIPSegForImageSegmentation, CLIPTokenizer, CLIPImageProcessor]:
    return (
        CLIPSegForImageSegmentation.from_pretrained(clipseg_folder).eval(),
        CLIPTokenizer.from_pretrained(clipseg_folder),
        CLIPImageProcessor.from_pretrained(clipseg_folder),
    )


class Stub:
    """A model that answers with given logits, or with how bright its pixels are, and keeps what it was asked."""

    device = CPU

    def __init__(self, answer: Tensor | None = None) -> None:
        self.answer = answer

    def __call__(self, **asked: Tensor) -> SimpleNamespace:
        self.asked = asked
        return SimpleNamespace(logits=asked["pixel_values"].mean(dim=1) * 9 if self.answer is None else self.answer)


@pytest.mark.parametrize("n", [1, 3])
@pytest.mark.parametrize(("height", "width"), [(32, 32), (64, 64), (48, 80), (20, 33)])
def test_masks_have_the_images_size(parts: tuple, n: int, height: int, width: int) -> None:
    masks, found = clipseg_masks(*parts, some_images(n, height, width), "ship", threshold=0.5)
    assert masks.shape == (n, height, width)
    assert masks.dtype == bool
    assert found.tolist() == [int(mask.any()) for mask in masks]


@pytest.mark.parametrize(("height", "width"), [(32, 32), (16, 16), (20, 33)])
def test_masks_are_the_models_logits_above_the_threshold(parts: tuple, height: int, width: int) -> None:
    clipseg, tokenizer, processor = parts
    images = some_images(3, height, width)
    with torch.no_grad():
        logits = clipseg(
            input_ids=torch.tensor([tokenizer("ship", padding="max_length").input_ids] * 3),
            pixel_values=processor(
                images=images, size={"height": 32, "width": 32}, do_center_crop=False, return_tensors="pt"
            ).pixel_values,
        ).logits
    wanted = np.stack([by_interpolation(one, height, width) for one in logits.double().numpy()])
    threshold = 1 / (1 + np.exp(-np.median(wanted)))
    masks, _ = clipseg_masks(*parts, images, "ship", threshold=threshold)
    sure = abs(wanted - np.median(wanted)) > 1e-3  # away from the threshold, where rounding decides
    assert np.array_equal(masks[sure], (wanted > np.median(wanted))[sure])
    assert sure.mean() > 0.99
    assert 0.4 < masks.mean() < 0.6
    assert not np.array_equal(masks, clipseg_masks(*parts, images, "a bird on the ground", threshold=threshold)[0])


def test_masks_keep_the_place(parts: tuple) -> None:
    logits = torch.full((2, 8, 8), -9.0)
    logits[0, :4] = 9  # the upper half
    logits[1, :, :2] = 9  # the left quarter
    stub = Stub(logits)
    masks, _ = clipseg_masks(stub, *parts[1:], some_images(2, 16, 32), "ship", threshold=0.5)
    upper, left = np.zeros((16, 32), bool), np.zeros((16, 32), bool)
    upper[:8], left[:, :8] = True, True
    assert np.array_equal(masks, [upper, left])
    assert stub.asked["pixel_values"].shape == (2, 3, 32, 32)
    assert stub.asked["input_ids"].tolist() == [parts[1]("ship", padding="max_length").input_ids] * 2


PROCESSORS = [
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32),
    CLIPImageProcessor(size={"shortest_edge": 40}, crop_size=32),  # its own crop would lose the edges
    ViTImageProcessor(size={"height": 32, "width": 32}),  # as CIDAS/clipseg-rd64-refined has it
]


@pytest.mark.parametrize("processor", PROCESSORS)
@pytest.mark.parametrize(
    ("height", "width", "rows", "columns"),
    [(24, 96, (4, 18), (78, 93)), (90, 30, (2, 20), (8, 24)), (64, 64, (2, 20), (40, 62))],
)
def test_what_lights_up_is_masked_where_it_is(
    parts: tuple, processor: BaseImageProcessor, height: int, width: int, rows: tuple, columns: tuple
) -> None:
    image, wanted = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
    image[slice(*rows), slice(*columns)] = 255
    wanted[slice(*rows), slice(*columns)] = True
    masks, found = clipseg_masks(Stub(), parts[1], processor, [image], "ship", threshold=0.5)
    assert found.tolist() == [1]
    assert (masks[0] & wanted).sum() / (masks[0] | wanted).sum() > 0.75  # but for the edges, which squeezing blurs


@pytest.mark.parametrize("processor", PROCESSORS[::2])
def test_a_square_image_reaches_the_model_as_its_processor_prepares_it(
    parts: tuple, processor: BaseImageProcessor
) -> None:
    images, stub = some_images(2, 64, 64), Stub()
    clipseg_masks(stub, parts[1], processor, images, "ship", threshold=0.5)
    assert torch.equal(stub.asked["pixel_values"], processor(images=images, return_tensors="pt").pixel_values)
    assert square_side(processor) == 32


def test_clipseg_counts_the_images_in_which_it_finds_something(parts: tuple) -> None:
    logits = torch.full((3, 4, 4), -9.0)
    logits[1, 0, 0] = 9
    masks, found = clipseg_masks(Stub(logits), *parts[1:], some_images(3, 8, 8), "AC/DC", threshold=0.5)
    assert found.tolist() == [0, 1, 0]
    assert not masks[[0, 2]].any()
    assert 0 < masks[1].mean() < 0.3


def test_resized_takes_the_logits_of_one_image_without_its_first_dimension() -> None:
    logits = torch.arange(6.0).reshape(2, 3)
    assert torch.equal(resized(logits, (2, 3)), logits[None])
    assert torch.equal(resized(logits[None], (4, 6)), resized(logits, (4, 6)))


# Nothing found


def three_masks() -> np.ndarray:
    masks = np.zeros((3, 5, 7), bool)
    masks[1, 2:4, 3] = True
    return masks


def test_nothing_found_is_the_full_frame_and_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    masks = three_masks()
    with caplog.at_level(logging.WARNING):
        whole = with_full_frames(
            masks, np.array([0, 2, 0]), numbers=[4, 5, 6], concept="AC/DC", when_nothing_found="full-frame"
        )
    assert whole[[0, 2]].all()
    assert np.array_equal(whole[1], masks[1])
    assert np.array_equal(masks, three_masks())
    assert [record.getMessage() for record in caplog.records] == [
        f"nothing found for 'AC/DC' in image {number}: its mask is the full frame" for number in (4, 6)
    ]


def test_nothing_found_stops_where_the_configuration_says_so() -> None:
    asked = dict(numbers=[4, 5, 6], concept="AC/DC", when_nothing_found="error")
    with pytest.raises(ValueError, match=r"'AC/DC' was not found in 2 of its 3 images \(number 4, 6\)") as caught:
        with_full_frames(three_masks(), np.array([0, 2, 0]), **asked)
    for setting in ("threshold", "masks.prompts", "masks.when_nothing_found", "full-frame"):
        assert setting in str(caught.value)
    assert np.array_equal(with_full_frames(three_masks(), np.array([1, 2, 3]), **asked), three_masks())


def test_full_frames_cover_everything() -> None:
    masks = full_frames(some_images(3, 5, 7))
    assert masks.shape == (3, 5, 7)
    assert masks.dtype == bool
    assert masks.all()


# GroundingDINO and SAM


@pytest.fixture(scope="module")
def grounding_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GroundingDINO; its tokenizer keeps the ids that the architecture fixes for [CLS], [SEP], '.' and '?'."""
    folder = tmp_path_factory.mktemp("models") / "grounding-dino"
    tokens = [f"[unused{k}]" for k in range(1030)]
    tokens[0], tokens[100:104], tokens[1012], tokens[1029] = "[PAD]", ["[UNK]", "[CLS]", "[SEP]", "[MASK]"], ".", "?"
    tokens += ["a", "ship", "bird", "person"]
    tokenizer = BertTokenizer(vocab={token: k for k, token in enumerate(tokens)}, model_max_length=64)
    with torch.random.fork_rng():
        torch.manual_seed(10)
        config = GroundingDinoConfig(
            backbone_config=SwinConfig(
                image_size=32,
                embed_dim=8,
                depths=[1, 1, 1, 1],
                num_heads=[1, 1, 2, 2],
                window_size=2,
                out_indices=[2, 3, 4],
            ),
            text_config=BertConfig(
                vocab_size=len(tokens),
                hidden_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
                max_position_embeddings=64,
            ),
            num_queries=QUERIES,
            d_model=32,
            encoder_layers=1,
            decoder_layers=2,
            encoder_attention_heads=2,
            decoder_attention_heads=2,
            encoder_ffn_dim=16,
            decoder_ffn_dim=16,
            max_text_len=64,
        )
        stronger(GroundingDinoForObjectDetection(config), 3).save_pretrained(folder)
    pictures = GroundingDinoImageProcessor(size={"shortest_edge": 96, "longest_edge": 200})
    GroundingDinoProcessor(pictures, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sam_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SAM."""
    folder = tmp_path_factory.mktemp("models") / "sam"
    sides = dict(image_size=SAM_SIDE, patch_size=8)
    with torch.random.fork_rng():
        torch.manual_seed(11)
        config = SamConfig(
            vision_config=SamVisionConfig(
                hidden_size=16,
                output_channels=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                window_size=4,
                global_attn_indexes=[0],
                num_pos_feats=8,
                mlp_dim=16,
                initializer_range=0.5,
                **sides,
            ),
            prompt_encoder_config=SamPromptEncoderConfig(hidden_size=16, mask_input_channels=4, **sides),
            mask_decoder_config=SamMaskDecoderConfig(
                hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
            ),
        )
        stronger(SamModel(config), 2).save_pretrained(folder)
    padded = {"height": SAM_SIDE, "width": SAM_SIDE}
    SamProcessor(SamImageProcessor(size={"longest_edge": SAM_SIDE}, pad_size=padded)).save_pretrained(folder)
    return folder


def grounded(grounding_folder: Path, sam_folder: Path, **changed: object) -> dict:
    """Settings of the segmenter as the rule hands them to the step; at threshold 0 every proposed box counts."""
    return dict(
        segmenter="grounded-sam",
        when_nothing_found="full-frame",
        prompt="a {}",
        detector=dict(model=str(grounding_folder), revision=None),
        sam=dict(model=str(sam_folder), revision=None),
        box_threshold=0.0,
        text_threshold=0.0,
    ) | dict(changed)


@pytest.mark.parametrize(
    ("template", "phrase", "caption"),
    [
        ("{}", "Ship", "ship."),
        ("a {}", "Sail Ship ", "a sail ship."),
        ("a person", "Melania Trump", "a person."),
        ("a person.", "x", "a person."),
        ("a boat. a {}", "Ship", "a boat. a ship."),
        ("{}", "J. K. Rowling", "j k rowling."),
        ("{} in a hat", "Who?", "who in a hat."),
        ("{}", "a {} b", "a {} b."),
    ],
)
def test_the_caption_is_lower_case_and_ends_in_the_only_full_stop_of_a_phrase(
    template: str, phrase: str, caption: str
) -> None:
    assert detection_caption(template, phrase) == caption


class Detector:
    """A detector that answers with given boxes (centre and size as shares of the frame) and token probabilities."""

    device = CPU

    def __init__(self, boxes: list, probabilities: list) -> None:
        padded = torch.zeros(len(boxes), 256)
        padded[:, : len(probabilities[0])] = torch.tensor(probabilities)
        self.answer = SimpleNamespace(logits=padded.logit()[None], pred_boxes=torch.tensor(boxes)[None])

    def __call__(self, **asked: Tensor) -> SimpleNamespace:
        self.asked = asked
        return self.answer


def test_boxes_are_in_the_images_pixels_and_show_a_word_of_the_caption(grounding_folder: Path) -> None:
    processor = GroundingDinoProcessor.from_pretrained(grounding_folder)
    boxes = [[0.5, 0.5, 0.2, 0.4], [0.75, 0.25, 0.5, 0.5], [0.1, 0.9, 0.1, 0.1], [0.2, 0.2, 0.2, 0.2], [0.4] * 4]
    probabilities = [  # [CLS] a ship . [SEP]
        [0.0, 0.1, 0.9, 0.1, 0.0],  # ship
        [0.0, 0.6, 0.3, 0.0, 0.0],  # a
        [0.0, 0.1, 0.45, 0.1, 0.1],  # ship, below box_threshold
        [0.9, 0.1, 0.1, 0.9, 0.9],  # only what stands around the words
        [0.0, 0.1, 0.3, 0.9, 0.0],  # the full stop, and the word above text_threshold
    ]
    detector = Detector(boxes, probabilities)
    image = some_images(1, 40, 100)[0]
    found = find_boxes(detector, processor, image, "a ship.", box_threshold=0.5, text_threshold=0.2)
    wanted = [[40, 12, 60, 28], [50, 0, 100, 20], [20, 8, 60, 24]]
    assert found.dtype == torch.float32
    assert torch.allclose(found, torch.tensor(wanted, dtype=torch.float32), atol=1e-4)
    assert detector.asked["input_ids"].tolist() == [[101, 1030, 1031, 1012, 102]]
    assert detector.asked["pixel_values"].shape == (1, 3, 80, 200)  # the whole image, in its own shape
    none = find_boxes(detector, processor, image, "a ship.", box_threshold=0.5, text_threshold=0.95)
    assert none.shape == (0, 4)


class BoxedSam:
    """A SAM whose low-resolution masks (16x16 for the 64x64 that it reads) are exactly the boxes."""

    device = CPU

    def __call__(self, *, pixel_values: Tensor, input_boxes: Tensor, multimask_output: bool) -> SimpleNamespace:
        assert pixel_values.shape == (1, 3, SAM_SIDE, SAM_SIDE)
        assert input_boxes.dtype == torch.float32
        assert multimask_output is False
        y = x = (torch.arange(16) + 0.5) * SAM_SIDE / 16
        x0, y0, x1, y1 = (edge[..., None, None] for edge in input_boxes.unbind(-1))
        inside = (x0 < x) & (x < x1) & (y0 < y[:, None]) & (y[:, None] < y1)
        return SimpleNamespace(pred_masks=torch.where(inside, 9.0, -9.0)[:, :, None])


@pytest.mark.parametrize(
    ("height", "width", "boxes"),
    [(64, 64, [(8, 4, 40, 20)]), (40, 160, [(10, 10, 40, 30), (120, 0, 160, 40)]), (150, 50, [(10, 100, 45, 140)])],
)
def test_masks_lie_where_the_boxes_are(sam_folder: Path, height: int, width: int, boxes: list) -> None:
    processor = SamProcessor.from_pretrained(sam_folder)
    image, wanted = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
    for x0, y0, x1, y1 in boxes:
        wanted[y0:y1, x0:x1] = True
    mask = union_in_boxes(BoxedSam(), processor, image, torch.tensor(boxes, dtype=torch.float32))
    assert mask.shape == (height, width)
    assert mask.dtype == bool
    assert (mask & wanted).sum() / (mask | wanted).sum() > 0.75  # but for the coarse model's edges
    assert not union_in_boxes(BoxedSam(), processor, image, torch.zeros(0, 4)).any()


@pytest.mark.parametrize(("height", "width"), [(48, 48), (40, 90), (100, 32)])
def test_a_mask_is_the_union_of_what_sam_finds_in_each_box(
    grounding_folder: Path, sam_folder: Path, height: int, width: int
) -> None:
    images = some_images(2, height, width)
    masks, found = load_segmenter(grounded(grounding_folder, sam_folder), device=CPU)(images, "Ship")
    assert masks.shape == (2, height, width)
    assert masks.dtype == bool
    assert found.tolist() == [QUERIES, QUERIES]
    detector = GroundingDinoForObjectDetection.from_pretrained(grounding_folder).eval()
    sam, scale = SamModel.from_pretrained(sam_folder).eval(), SAM_SIDE / max(height, width)
    fed = int(height * scale + 0.5), int(width * scale + 0.5)
    for image, mask in zip(images, masks, strict=True):
        seen = GroundingDinoProcessor.from_pretrained(grounding_folder)(
            images=image, text="a ship.", return_tensors="pt"
        )
        pixels = SamProcessor.from_pretrained(sam_folder)(images=image, return_tensors="pt").pixel_values
        with torch.no_grad():
            shares = detector(**seen).pred_boxes[0].double().numpy()
        highest = np.full((height, width), -np.inf)
        for x, y, w, h in shares:  # a box at a time
            corners = torch.tensor([x - w / 2, y - h / 2, x + w / 2, y + h / 2])
            box = (corners * torch.tensor([fed[1], fed[0], fed[1], fed[0]])).reshape(1, 1, 4)
            with torch.no_grad():
                logits = sam(pixel_values=pixels, input_boxes=box.float(), multimask_output=False).pred_masks
            whole = by_interpolation(logits[0, 0, 0].double().numpy(), SAM_SIDE, SAM_SIDE)[: fed[0], : fed[1]]
            highest = np.maximum(highest, by_interpolation(whole, height, width))
        sure = abs(highest) > 1e-3 * abs(highest).max()  # away from zero, where rounding decides
        assert sure.mean() > 0.9
        assert np.array_equal(mask[sure], (highest > 0)[sure])
    assert 0.02 < masks.mean() < 0.98


def test_grounded_sam_counts_no_boxes_where_the_union_is_empty(grounding_folder: Path, sam_folder: Path) -> None:
    image = some_images(1, 40, 100)[0]
    readers = (
        GroundingDinoProcessor.from_pretrained(grounding_folder),
        BoxedSam(),
        SamProcessor.from_pretrained(sam_folder),
    )
    thresholds = dict(box_threshold=0.5, text_threshold=0.5)
    for box, count in (([0.5, 0.5, 0.4, 0.8], 1), ([0.5, 0.5, 0.0, 0.0], 0)):
        detector = Detector([box, [0.2] * 4], [[0.0, 0.0, 0.9], [0.0, 0.0, 0.1]])
        masks, found = grounded_sam_masks(detector, *readers, [image], "a ship.", **thresholds)
        assert found.tolist() == [count]
        assert masks.any() == bool(count)


def emptied(folder: Path, part: str) -> None:
    path = folder / "model.safetensors"
    save_file({name: t for name, t in load_file(path).items() if part not in name}, path, {"format": "pt"})


def of_type(folder: Path, kind: str) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": kind}))


@pytest.mark.parametrize(
    ("model", "spoil", "told"),
    [
        ("detector", lambda f: emptied(f, "encoder.layers.0.fusion"), "lack [0-9]+ of the weights of GroundingDinoFor"),
        ("detector", lambda f: emptied(f, "text_backbone"), "lack [0-9]+ of the weights of GroundingDinoFor"),
        ("detector", lambda f: of_type(f, "owlvit"), "is of the type 'owlvit', and GroundingDinoForObjectDetection"),
        ("detector", lambda f: (f / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        ("detector", lambda f: (f / "processor_config.json").unlink(), "lacks preprocessor_config.json"),
        ("sam", lambda f: emptied(f, "mask_decoder"), "lack [0-9]+ of the weights of SamModel"),
        ("sam", lambda f: of_type(f, "sam2"), "is of the type 'sam2', and SamModel is wanted"),
        ("sam", lambda f: (f / "model.safetensors").unlink(), "lacks model.safetensors"),
        (
            "sam",
            lambda f: SamProcessor(
                SamImageProcessor(size={"longest_edge": 80}, pad_size={"height": 80, "width": 80})
            ).save_pretrained(f),
            f"makes images of 80 pixels, and the network reads {SAM_SIDE}",
        ),
    ],
)
def test_segmenters_that_are_not_whole_are_refused_with_their_key(
    tmp_path: Path, grounding_folder: Path, sam_folder: Path, model: str, spoil: Callable, told: str
) -> None:
    folder = Path(shutil.copytree({"detector": grounding_folder, "sam": sam_folder}[model], tmp_path / "spoilt"))
    spoil(folder)
    settings = grounded(grounding_folder, sam_folder, **{model: dict(model=str(folder), revision=None)})
    with pytest.raises(ValueError, match=told) as caught:
        load_segmenter(settings, device=CPU)
    assert str(caught.value).startswith(f"masks.grounded-sam.{model}.model: {folder}: ")
    assert len(str(caught.value).splitlines()) == 1


# The step


def arguments(folder: Path, masks: dict, rows: pd.DataFrame) -> list[str]:
    write_shard(folder / "images.zip", rows, some_images(len(rows), 40, 56))
    settings = {"concept": "Ship", "masks": masks}
    return step_command("masks", settings, {"images": folder / "images.zip"}, {"masks": folder / "masks.zip"})


def test_the_step_finds_the_concept_with_grounded_sam(
    tmp_path: Path, grounding_folder: Path, sam_folder: Path, some_rows: pd.DataFrame
) -> None:
    masks = grounded(grounding_folder, sam_folder)
    environment = os.environ | {"PYTHONPATH": str(ROOT / "workflow"), "HF_HUB_OFFLINE": "1"}
    run = subprocess.run(arguments(tmp_path, masks, some_rows), env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    rows = read_rows(tmp_path / "masks.zip")
    assert rows.drop(columns="found").equals(some_rows)
    assert rows["found"].tolist() == [QUERIES] * len(some_rows)
    drawn, images = read_images(tmp_path / "masks.zip"), read_images(tmp_path / "images.zip")
    wanted, _ = load_segmenter(masks, device=CPU)(images, "Ship")
    assert all(mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255} for mask in drawn)
    assert np.array_equal(np.stack(drawn) > 127, wanted)


@pytest.mark.parametrize("when_nothing_found", ["full-frame", "error"])
def test_the_step_obeys_the_setting_where_no_box_is_found(
    tmp_path: Path,
    grounding_folder: Path,
    sam_folder: Path,
    some_rows: pd.DataFrame,
    caplog: pytest.LogCaptureFixture,
    when_nothing_found: str,
) -> None:
    masks = grounded(grounding_folder, sam_folder, box_threshold=1.0, when_nothing_found=when_nothing_found)
    if when_nothing_found == "error":
        with pytest.raises(SystemExit, match="1"):
            main(arguments(tmp_path, masks, some_rows)[3:])
        assert "'Ship' was not found in 4 of its 4 images (number 0, 1, 2, 3)" in caplog.text
        assert not (tmp_path / "masks.zip").exists()
    else:
        main(arguments(tmp_path, masks, some_rows)[3:])
        assert read_rows(tmp_path / "masks.zip")["found"].tolist() == [0] * 4
        assert (np.stack(read_images(tmp_path / "masks.zip")) == 255).all()


def test_the_step_takes_full_frames_without_a_model(tmp_path: Path, some_rows: pd.DataFrame) -> None:
    main(arguments(tmp_path, {"segmenter": "full-frame"}, some_rows)[3:])
    assert read_rows(tmp_path / "masks.zip")["found"].tolist() == [1] * 4
    assert (np.stack(read_images(tmp_path / "masks.zip")) == 255).all()
