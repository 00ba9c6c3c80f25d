"""Loading: parts of models that are not whole, or are another's, are refused in a sentence; whole ones load as ever."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegForImageSegmentation,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModel,
)

from bad_input import (
    CODE,
    PICKLE,
    UNET,
    Act,
    Case,
    Place,
    each_of,
    pipeline_of,
    reconfigured,
    refusals,
    spoilt,
    text_of,
    with_file,
)
from conftest import CPU, ROOT, save_tokenizer, text_settings, vision_settings
from lethe.bases.loading import load_network, load_tokenizer
from lethe.bases.pipeline import load_pipeline, load_text, text_encoders
from lethe.bases.text import encode_prompts
from lethe.erasure.masks import load_clipseg
from lethe.measures.clip import load_judge, text_embeddings

PARTS = {  # a network of each kind: its class, the fixture and folder that holds it
    "unet": (UNet2DConditionModel, "sd_folder", "unet"),
    "vae": (AutoencoderKL, "sd_folder", "vae"),
    "text encoder": (CLIPTextModel, "sd_folder", "text_encoder"),
    "second text encoder": (CLIPTextModelWithProjection, "sdxl_folder", "text_encoder_2"),
    "judge": (CLIPModel, "clip_folder", ""),
    "clipseg": (CLIPSegForImageSegmentation, "clipseg_folder", ""),
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[type, Path]:
    """A class, and a copy of a folder that holds such a network, to spoil."""
    kind, fixture, name = PARTS[request.param]
    return kind, Path(shutil.copytree(request.getfixturevalue(fixture) / name, tmp_path / "part"))


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
    (path,) = folder.glob("*.safetensors")
    save_file(change(load_file(path)), path, {"format": "pt"})


def loaded(kind: type, folder: Path, **options: object) -> torch.nn.Module:
    return load_network(kind, folder, dtype=torch.float32, **options)


def refused(match: str, act: Callable[[], object]) -> str:
    with pytest.raises(ValueError, match=match) as caught:
        act()
    assert type(caught.value) is ValueError
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


# Weights


def test_a_whole_network_is_that_of_the_library(part: tuple[type, Path]) -> None:
    kind, folder = part
    mine, its = loaded(kind, folder), kind.from_pretrained(folder)
    assert type(mine) is kind
    assert not mine.training
    want = its.state_dict()
    assert mine.state_dict().keys() == want.keys()
    assert all(torch.equal(t, want[name]) for name, t in mine.state_dict().items())


@pytest.mark.parametrize("count", [1, 5])
def test_missing_weights_are_refused(part: tuple[type, Path], count: int) -> None:
    kind, folder = part
    rewrite(folder, lambda weights: dict(sorted(weights.items())[count:]))
    said = refused(f"lack {count} of the weights of {kind.__name__} .* made up at random", lambda: loaded(kind, folder))
    assert str(folder) in said
    assert said.endswith("download or save the model again, whole")


def test_weights_of_another_shape_are_refused(part: tuple[type, Path]) -> None:
    kind, folder = part

    def cut(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        name = next(name for name, t in sorted(weights.items()) if (t.dim() == 2 and "layers" in name) or t.dim() == 4)
        return weights | {name: weights[name][:-1].contiguous()}

    rewrite(folder, cut)
    refused(f"have 1 weights of another shape than their configuration says for {kind.__name__}", lambda: loaded(*part))


@pytest.mark.parametrize("name", ["lora_layer.down.weight", "decoder.extra.weight"])
def test_weights_that_would_be_left_out_are_refused(part: tuple[type, Path], name: str) -> None:
    kind, folder = part
    rewrite(folder, lambda weights: weights | {name: torch.ones(3)})
    refused(rf"hold 1 weights that {kind.__name__} does not have .*{name}", lambda: loaded(kind, folder))


def test_layers_that_the_configuration_leaves_out_are_refused(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder / "text_encoder", tmp_path / "part")
    reconfigured(folder, num_hidden_layers=1)
    refused(
        "hold 16 weights that CLIPTextModel does not have as it is configured", lambda: loaded(CLIPTextModel, folder)
    )


def test_buffers_of_other_versions_are_no_weights(part: tuple[type, Path]) -> None:
    kind, folder = part
    for name in ("embeddings.position_ids", "text_model.embeddings.position_ids", "x.relative_position_index"):
        rewrite(folder, lambda weights, name=name: weights | {name: torch.arange(77)})
    want = kind.from_pretrained(folder).state_dict()
    assert all(torch.equal(t, want[name]) for name, t in loaded(kind, folder).state_dict().items())


def test_names_of_text_encoders_may_have_the_prefix_of_older_versions(sd_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(sd_folder / "text_encoder", tmp_path / "part")
    want = CLIPTextModel.from_pretrained(folder).state_dict()
    rewrite(
        folder,
        lambda weights: (
            {f"text_model.{name.removeprefix('text_model.')}": t for name, t in weights.items()}
            | {"text_model.embeddings.position_ids": torch.arange(77)[None]}
        ),
    )
    found = loaded(CLIPTextModel, folder).state_dict()
    assert found.keys() == want.keys()
    assert all(torch.equal(t, want[name]) for name, t in found.items())


def test_names_of_an_autoencoders_attention_may_be_those_of_older_versions(sd_folder: Path, tmp_path: Path) -> None:
    """Stable Diffusion 1.x on the hub has query, key, value and proj_attn."""
    folder = shutil.copytree(sd_folder / "vae", tmp_path / "part")
    want = AutoencoderKL.from_pretrained(folder).state_dict()
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def renamed(name: str) -> str:
        for new, old in older.items():
            name = name.replace(f".{new}.", f".{old}.")
        return name

    rewrite(folder, lambda weights: {renamed(name): t for name, t in weights.items()})
    assert any("proj_attn" in name for name in load_file(folder / "diffusion_pytorch_model.safetensors"))
    assert all(torch.equal(t, want[name]) for name, t in loaded(AutoencoderKL, folder).state_dict().items())


def test_a_text_encoder_may_lie_in_the_files_of_a_whole_clip(clip_folder: Path) -> None:
    want = CLIPTextModel.from_pretrained(clip_folder).state_dict()
    assert all(torch.equal(t, want[name]) for name, t in loaded(CLIPTextModel, clip_folder).state_dict().items())


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_shards_are_accounted_for(sd_folder: Path, tmp_path: Path, variant: str | None) -> None:
    unet = UNet2DConditionModel.from_pretrained(sd_folder / "unet")
    unet.save_pretrained(tmp_path, max_shard_size="100KB", variant=variant)
    shards = sorted(tmp_path.glob("*.safetensors"))
    assert len(shards) > 2
    found = loaded(UNet2DConditionModel, tmp_path, variant=variant).state_dict()
    assert all(torch.equal(t, found[name]) for name, t in unet.state_dict().items())
    weights = load_file(shards[1])
    save_file(dict(list(weights.items())[1:]), shards[1], {"format": "pt"})
    told = "index of the shards .* and the shards differ in 1 of their weights"
    refused(told, lambda: loaded(UNet2DConditionModel, tmp_path, variant=variant))
    shards[1].unlink()
    refused(f"lacks {shards[1].name}", lambda: loaded(UNet2DConditionModel, tmp_path, variant=variant))


def test_a_file_cut_short_is_refused(part: tuple[type, Path]) -> None:
    kind, folder = part
    (path,) = folder.glob("*.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    said = refused("does not load", lambda: loaded(kind, folder, model="owner/name"))
    assert said.startswith("owner/name: ")


# Classes


@pytest.mark.parametrize(
    ("kind", "other"),
    [
        (CLIPModel, "clipseg_folder"),
        (CLIPSegForImageSegmentation, "clip_folder"),
        (CLIPTextModel, "clipseg_folder"),
        (UNet2DConditionModel, "vae"),
        (AutoencoderKL, "unet"),
    ],
)
def test_a_model_of_another_class_is_refused(kind: type, other: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(other) if "_" in other else request.getfixturevalue("sd_folder") / other
    assert f"{kind.__name__} is wanted here" in refused("is of the (type|class)", lambda: loaded(kind, folder))


def test_an_image_tower_alone_is_no_judge(clip_folder: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(clip_folder, tmp_path / "judge")
    CLIPVisionModel.from_pretrained(clip_folder).save_pretrained(folder)
    refused("is of the type 'clip_vision_model', and CLIPModel is wanted", lambda: load_judge(str(folder), device=CPU))
    shutil.copy(clip_folder / "config.json", folder)
    refused("lack [0-9]+ of the weights of CLIPModel", lambda: load_judge(str(folder), device=CPU))


def test_models_are_loaded_nowhere_else() -> None:
    """The pipeline's class is handed parts that are loaded already."""
    library = ROOT / "workflow" / "lethe"
    found = {
        path.relative_to(library).as_posix(): path.read_text().count(".from_pretrained(")
        for path in library.rglob("*.py")
        if ".from_pretrained(" in path.read_text()
    }
    assert found == {"bases/loading.py": 3, "bases/pipeline.py": 1}


# Words


@pytest.fixture
def tokenizer_folder(sd_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(sd_folder / "tokenizer", tmp_path / "tokenizer"))


@pytest.fixture
def encoder(sd_folder: Path) -> object:
    return CLIPTextModel.from_pretrained(sd_folder / "text_encoder").config


def as_two_files(folder: Path) -> None:
    """The vocabulary as vocab.json and merges.txt, as the hub has it."""
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]))
    (folder / "tokenizer.json").unlink()


def test_either_form_of_a_vocabulary_will_do(tokenizer_folder: Path, encoder: object) -> None:
    one = load_tokenizer(tokenizer_folder, encoder)
    as_two_files(tokenizer_folder)
    two = load_tokenizer(tokenizer_folder, encoder)
    assert len(one) == len(two) == encoder.vocab_size
    for text in ("a photo of the ship", "birds, in the sky!"):
        assert one(text).input_ids == two(text).input_ids


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        (["vocab.json", "merges.txt"], r"lacks tokenizer.json \(or vocab.json and merges.txt\)"),
        (["merges.txt"], "lacks merges.txt"),
        (["vocab.json"], "lacks vocab.json"),
        (["tokenizer_config.json"], "lacks tokenizer_config.json"),
    ],
)
def test_a_vocabulary_that_is_not_there_is_refused(
    tokenizer_folder: Path, encoder: object, lost: list[str], told: str
) -> None:
    as_two_files(tokenizer_folder)
    for name in lost:
        (tokenizer_folder / name).unlink()
    assert str(tokenizer_folder) in refused(told, lambda: load_tokenizer(tokenizer_folder, encoder))


def test_another_vocabulary_is_refused(tokenizer_folder: Path, encoder: object) -> None:
    encoder.vocab_size += 128
    refused(
        f"has {encoder.vocab_size - 128} entries, .* made for {encoder.vocab_size}",
        lambda: load_tokenizer(tokenizer_folder, encoder),
    )
    encoder.vocab_size -= 1  # a table of embeddings that was rounded up
    load_tokenizer(tokenizer_folder, encoder)
    encoder.vocab_size -= 128
    refused("has .* entries", lambda: load_tokenizer(tokenizer_folder, encoder))


@pytest.mark.parametrize(("window", "told"), [(None, "is told nowhere"), (78, "is 78 tokens"), (512, "is 512 tokens")])
def test_a_window_longer_than_the_encoders_is_refused(
    tokenizer_folder: Path, encoder: object, window: int | None, told: str
) -> None:
    path = tokenizer_folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    for key in ("model_max_length", "max_length"):
        config.pop(key, None)
    path.write_text(json.dumps(config | ({"model_max_length": window} if window else {})))
    refused(f"{told}, and the text encoder reads 77", lambda: load_tokenizer(tokenizer_folder, encoder))


def test_an_end_of_text_that_the_encoder_does_not_look_for_is_refused(tokenizer_folder: Path, encoder: object) -> None:
    """The pooled state would be that of the first token of every text."""
    end = encoder.eos_token_id
    encoder.eos_token_id = 2  # in configurations of older versions: the highest id of a text
    load_tokenizer(tokenizer_folder, encoder)
    encoder.eos_token_id = end - 1
    refused(f"ends texts with token {end}, .* looks for {end - 1}", lambda: load_tokenizer(tokenizer_folder, encoder))


# Where they are loaded


def without_mlps(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in weights.items() if "mlp" not in name}


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda base: rewrite(base / "text_encoder", without_mlps), "lack 8 of the weights of CLIPTextModel"),
        (lambda base: (base / "tokenizer/tokenizer.json").unlink(), r"lacks tokenizer/tokenizer.json"),
        (lambda base: shutil.rmtree(base / "tokenizer"), "lacks tokenizer/tokenizer_config.json"),
        (lambda base: save_tokenizer_of_others(base / "tokenizer"), "entries, and the text encoder was made for"),
    ],
)
@pytest.mark.parametrize("load", [load_pipeline, load_text])
def test_a_base_whose_text_side_is_not_whole_is_refused(
    sd_folder: Path, tmp_path: Path, spoil: Callable, told: str, load: Callable
) -> None:
    base = shutil.copytree(sd_folder, tmp_path / "base")
    spoil(base)
    refused(told, lambda: load(str(base), None, device=CPU, precision="float32"))


def save_tokenizer_of_others(folder: Path) -> None:
    """The vocabulary of another model: every id is one that the text encoder has."""
    vocabulary = json.loads((folder / "tokenizer.json").read_text())
    words = vocabulary["model"]["vocab"]
    kept = {word: k for k, word in enumerate(list(words)[:200])}
    ends = [token["content"] for token in vocabulary["added_tokens"]]
    vocabulary["model"] |= {"vocab": kept | {end: 200 + k for k, end in enumerate(ends)}, "merges": []}
    for k, token in enumerate(vocabulary["added_tokens"]):
        token["id"] = 200 + k
    (folder / "tokenizer.json").write_text(json.dumps(vocabulary))


@pytest.mark.parametrize("part", ["unet", "vae"])
def test_a_base_whose_pictures_side_is_not_whole_is_refused(sd_folder: Path, tmp_path: Path, part: str) -> None:
    base = shutil.copytree(sd_folder, tmp_path / "base")
    rewrite(base / part, lambda weights: {name: t for name, t in weights.items() if "mid_block" not in name})
    refused("lack [0-9]+ of the weights", lambda: load_pipeline(str(base), None, device=CPU, precision="float32"))


def test_a_pipeline_is_that_of_the_library(base_folder: Path) -> None:
    mine = load_pipeline(str(base_folder), None, device=CPU, precision="float32")
    its = DiffusionPipeline.from_pretrained(base_folder)
    assert type(mine) is type(its)
    drop = ("_name_or_path",)
    assert {k: v for k, v in mine.config.items() if k not in drop} == {
        k: v for k, v in its.config.items() if k not in drop
    }
    for name, component in its.components.items():
        if isinstance(component, torch.nn.Module):
            want = component.state_dict()
            assert all(torch.equal(t, want[key]) for key, t in getattr(mine, name).state_dict().items()), name
    prompts = ["a photo of the ship", "birds, in the sky!"]
    for tokenizer in ("tokenizer", "tokenizer_2"):
        if hasattr(its, tokenizer):
            assert getattr(mine, tokenizer)(prompts).input_ids == getattr(its, tokenizer)(prompts).input_ids


@pytest.mark.parametrize(
    "half", [["unet"], ["text_encoder"], ["vae", "text_encoder_2"], ["unet", "vae", "text_encoder"]]
)
def test_each_part_falls_back_to_the_files_that_it_has(base_folder: Path, tmp_path: Path, half: list[str]) -> None:
    """Where some parts alone are stored in half precision, images and text states come from the same weights."""
    base = Path(shutil.copytree(base_folder, tmp_path / "base"))
    half = [name for name in half if (base / name).is_dir()]
    for name in half:
        (path,) = (base / name).glob("*.safetensors")
        save_file(
            {k: t.half() for k, t in load_file(path).items()}, path.with_suffix(".fp16.safetensors"), {"format": "pt"}
        )
        path.unlink()
    options = dict(device=CPU, precision="float32", variant="fp16")
    pipeline, text = load_pipeline(str(base), None, **options), load_text(str(base), None, **options)
    whole = load_pipeline(str(base_folder), None, device=CPU, precision="float32")
    for name in ("unet", "vae", "text_encoder", "text_encoder_2"):
        if (base / name).is_dir():
            want = getattr(whole, name).state_dict()
            want = {k: t.half().float() if name in half and t.is_floating_point() else t for k, t in want.items()}
            assert all(torch.equal(t, want[k]) for k, t in getattr(pipeline, name).state_dict().items()), name
    states = [next(encode_prompts(side, ["a photo of the ship"])) for side in (text, text_encoders(pipeline))]
    assert torch.equal(*states)
    if half:
        refused(
            r"the folder lacks \w+/\w+.safetensors", lambda: load_text(str(base), None, device=CPU, precision="float32")
        )


def judge_with(clip_folder: Path, folder: Path, change: Callable[[Path], object]) -> Callable[[], object]:
    shutil.copytree(clip_folder, folder)
    change(folder)
    return lambda: load_judge(str(folder), device=CPU)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda f: (f / "preprocessor_config.json").unlink(), "lacks preprocessor_config.json"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "weights are safetensors"),
        (
            lambda f: CLIPImageProcessor(size={"shortest_edge": 48}, crop_size=48).save_pretrained(f),
            "makes images of 48 pixels, and the network reads 32",
        ),
        (lambda f: rewrite(f, without_mlps), "lack 16 of the weights of CLIPModel"),
        (lambda f: reconfigured(f, "tokenizer_config.json", model_max_length=10**30), "is told nowhere"),
    ],
)
def test_a_judge_that_is_not_whole_is_refused(clip_folder: Path, tmp_path: Path, change: Callable, told: str) -> None:
    said = refused(told, judge_with(clip_folder, tmp_path / "judge", change))
    assert str(tmp_path / "judge") in said


def test_a_judge_of_clips_vocabulary_alone_gives_its_texts_as_the_library(clip_folder: Path) -> None:
    judge = load_judge(str(clip_folder), device=CPU)
    ids = CLIPTokenizer.from_pretrained(clip_folder)(["a ship"], padding="max_length", return_tensors="pt").input_ids
    with torch.no_grad():
        want = CLIPModel.from_pretrained(clip_folder).get_text_features(input_ids=ids).pooler_output
    assert torch.equal(torch.from_numpy(text_embeddings(judge, ["a ship"])), want)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: (f / "tokenizer.json").unlink(), "lacks tokenizer.json"),
        (lambda f: rewrite(f, lambda w: {k: t for k, t in w.items() if "decoder" not in k}), "CLIPSegForImageSeg"),
        (
            lambda f: CLIPImageProcessor(size={"shortest_edge": 36}, crop_size=36).save_pretrained(f),
            "makes images of 36 pixels, and the network reads 32",
        ),
    ],
)
def test_a_clipseg_that_is_not_whole_is_refused(
    clipseg_folder: Path, tmp_path: Path, change: Callable, told: str
) -> None:
    folder = shutil.copytree(clipseg_folder, tmp_path / "clipseg")
    change(folder)
    refused(told, lambda: load_clipseg(str(folder), None, device=CPU))


def test_a_clip_as_deep_as_a_clipseg_is_no_clipseg(tmp_path: Path) -> None:
    """transformers makes up the decoder of one whose layers 3, 6 and 9 are there."""
    tokenizer = save_tokenizer(tmp_path)
    vision = vision_settings() | {"num_hidden_layers": 12, "projection_dim": 512}
    text = text_settings(tokenizer) | {"projection_dim": 512}
    with torch.random.fork_rng():
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=512)).save_pretrained(tmp_path)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size=32).save_pretrained(tmp_path)
    refused(
        "is of the type 'clip', and CLIPSegForImageSegmentation is wanted",
        lambda: load_clipseg(str(tmp_path), None, device=CPU),
    )
    reconfigured(tmp_path, model_type="clipseg")
    refused(
        "lack 60 of the weights of CLIPSegForImageSegmentation", lambda: load_clipseg(str(tmp_path), None, device=CPU)
    )


# Bad input


def code_in_a_tokenizer(place: Place) -> Act:
    base = place.base()
    reconfigured(base / "tokenizer", "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Evil", None]})
    (base / "tokenizer/evil.py").write_text(CODE)

    def act() -> None:
        assert type(text_of(base).tokenizer).__name__ == "CLIPTokenizer"

    return act


CASES = [
    *refusals(
        "a base",
        {
            "pickle renamed to safetensors": (with_file(UNET, PICKLE), pipeline_of, ("base: it does not load",)),
            "text encoder's pickle renamed": (
                with_file("text_encoder/model.safetensors", PICKLE),
                text_of,
                ("base: it does not load",),
            ),
        },
        spoilt,
    ),
    Case("a base: code that a tokenizer names is not run", code_in_a_tokenizer),
]


@each_of(CASES)
def test_a_pickle_is_refused_under_any_name_and_code_of_a_model_not_run(
    place: Place, case: Case, capsys: pytest.CaptureFixture
) -> None:
    case.check(place, capsys)
