"""Shared fixtures: tiny models with random weights in the formats of the real ones, made once per session."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import Tensor
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from clusters import missing_programs, one_node
from emoji_world.captions import tokenizer_corpus
from emoji_world.models import build_scheduler, train_tokenizer
from emoji_world.plan import WORLD
from emoji_world.world import World, read_world
from lethe.bases.pipeline import load_pipeline
from lethe.bases.text import TextEncoders
from lethe.frame.start import WARM
from lethe.methods.mace.training import LoraSettings
from running import ROOT, snakemake

if TYPE_CHECKING:
    from bad_input import Place

pytest.register_assert_rewrite("bad_input")  # so that a case that fails says what differs
torch.set_num_threads(1)
# Processes that tests start, too: with more threads than cores each waits for the others at every step.
os.environ.setdefault("OMP_NUM_THREADS", "1")

WINDOW = 77  # of Stable Diffusion
WIDTH = 32  # of the text states
IMAGE = 32  # pixels a side
CPU = torch.device("cpu")
BRIEF_LORA = LoraSettings(
    rank=1,
    steps=20,
    learning_rate=5e-2,
    batch=2,
    use_pooler=True,
    squared_norm=False,
    timesteps="importance",
    pixels="symmetric",
    max_grad_norm=1.0,
    preservation_weight=0.0,
    seed=5,
)
# Few merges: "photo", "ship" and "picture" are one token, most names are several.
CORPUS = ["a photo of the ship"] * 9 + ["a picture of a bird in the sky", "the picture of a person on the ground"] * 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Whole runs come first: they wait a good part of their time, for SLURM or for each other, and would wait alone."""
    items.sort(key=lambda item: "runs" not in item.path.parts)


def save_tokenizer(folder: Path, **special: str) -> CLIPTokenizer:
    """The tiny vocabulary as a tokenizer in `folder`; `special` tokens such as `pad_token` replace the usual ones."""
    train_tokenizer(CORPUS, folder, merges=60, window=WINDOW)
    if special:
        CLIPTokenizer.from_pretrained(folder, **special).save_pretrained(folder)
    return CLIPTokenizer.from_pretrained(folder)


def text_settings(tokenizer: CLIPTokenizer) -> dict:
    return dict(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=WINDOW,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def vision_settings() -> dict:
    return dict(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4, image_size=IMAGE, patch_size=8
    )


def stronger(model: torch.nn.Module, factor: float) -> torch.nn.Module:
    """The model with its random weights scaled up, so that what it reads shows in what it says."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(factor)
    return model


def tiny_unet(**changes: object) -> UNet2DConditionModel:
    """A U-Net on 8x8 latents with two attention levels."""
    settings = dict(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(16, 32),
        layers_per_block=1,
        attention_head_dim=2,
        norm_num_groups=4,
        cross_attention_dim=WIDTH,
    )
    return stronger(UNet2DConditionModel(**settings | changes), 1.2)


def tiny_vae(**changes: object) -> AutoencoderKL:
    """32x32 images to 8x8x4 latents and back."""
    settings = dict(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 16),
        latent_channels=4,
        norm_num_groups=4,
        sample_size=IMAGE,
    )
    return stronger(AutoencoderKL(**settings | changes), 1.5)


def model_stand_ins() -> dict[str, str]:
    """The shipped models' JSON files by their paths, and their weights, empty: all that planning looks at."""
    files = [
        path
        for name in ("pipeline", "clip", "clipseg", "second_judge")
        for path in (ROOT / "resources/emoji" / name).rglob("*.*")
    ]
    return {str(path.relative_to(ROOT)): path.read_text() if path.suffix == ".json" else "" for path in files}


@pytest.fixture(scope="session")
def sd_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Stable Diffusion 1.x pipeline of tiny parts: 77 tokens, 32-pixel images, 8x8 latents, two attention levels."""
    folder = tmp_path_factory.mktemp("models") / "sd"
    tokenizer = save_tokenizer(folder / "tokenizer")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        StableDiffusionPipeline(
            unet=tiny_unet(),
            vae=tiny_vae(),
            text_encoder=stronger(CLIPTextModel(CLIPTextConfig(**text_settings(tokenizer))), 5),
            tokenizer=tokenizer,
            scheduler=build_scheduler(),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sd2_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Stable Diffusion 2.x pipeline: v-prediction, '!' pads, heads by level, linear layers around attention."""
    folder = tmp_path_factory.mktemp("models") / "sd2"
    tokenizer = save_tokenizer(folder / "tokenizer", pad_token="!")
    with torch.random.fork_rng():
        torch.manual_seed(10)
        StableDiffusionPipeline(
            unet=tiny_unet(attention_head_dim=(2, 4), use_linear_projection=True, upcast_attention=True),
            vae=tiny_vae(),
            text_encoder=stronger(CLIPTextModel(CLIPTextConfig(**text_settings(tokenizer), hidden_act="gelu")), 5),
            tokenizer=tokenizer,
            scheduler=DDIMScheduler.from_config(build_scheduler().config, prediction_type="v_prediction"),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        ).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def sdxl_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SDXL pipeline: text states 32 + 16 wide, pooled states 24 wide, one and two transformers a block."""
    folder = tmp_path_factory.mktemp("models") / "sdxl"
    tokenizers = save_tokenizer(folder / "tokenizer"), save_tokenizer(folder / "tokenizer_2", pad_token="!")
    second = text_settings(tokenizers[1]) | dict(hidden_size=16, num_hidden_layers=3, hidden_act="gelu")
    with torch.random.fork_rng():
        torch.manual_seed(11)
        StableDiffusionXLPipeline(
            unet=tiny_unet(
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                transformer_layers_per_block=(1, 2),
                attention_head_dim=(2, 4),
                use_linear_projection=True,
                cross_attention_dim=WIDTH + 16,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=24 + 6 * 8,
            ),
            vae=tiny_vae(scaling_factor=0.13025, force_upcast=True),
            text_encoder=stronger(CLIPTextModel(CLIPTextConfig(**text_settings(tokenizers[0]))), 5),
            text_encoder_2=stronger(CLIPTextModelWithProjection(CLIPTextConfig(**second, projection_dim=24)), 5),
            tokenizer=tokenizers[0],
            tokenizer_2=tokenizers[1],
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
        ).save_pretrained(folder)
    return folder


@pytest.fixture(params=["sd_folder", "sd2_folder", "sdxl_folder"])
def base_folder(request: pytest.FixtureRequest) -> Path:
    """A tiny pipeline of each family."""
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="session")
def clip_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIPModel with tokenizer and image processor; 8-dimensional embeddings, so nine images make a FID."""
    folder = tmp_path_factory.mktemp("models") / "clip"
    tokenizer = save_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(8)
        config = CLIPConfig(
            text_config=text_settings(tokenizer) | dict(projection_dim=8),
            vision_config=vision_settings() | dict(projection_dim=8),
            projection_dim=8,
        )
        stronger(CLIPModel(config), 3).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=IMAGE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def clipseg_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny CLIPSegForImageSegmentation with tokenizer and image processor."""
    folder = tmp_path_factory.mktemp("models") / "clipseg"
    tokenizer = save_tokenizer(folder)
    with torch.random.fork_rng():
        torch.manual_seed(9)
        config = CLIPSegConfig(
            text_config=text_settings(tokenizer) | dict(projection_dim=16),
            vision_config=vision_settings() | dict(projection_dim=16),
            projection_dim=16,
            extract_layers=[0, 1],
            reduce_dim=16,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=32,
            use_complex_transposed_convolution=True,
        )
        CLIPSegForImageSegmentation(config).save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": IMAGE}, crop_size=IMAGE).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def project(tmp_path_factory, sd_folder, clip_folder, clipseg_folder) -> Path:
    """A working directory with a tiny configuration: an object and a style on a random-weight SD-shaped base."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "config").mkdir()
    concepts = (
        'concept\tkind\tanchor\tsynonyms\nship\tobject\tground\tvessel\n$(touch pwned)\'s "cat"\tstyle\tsky\tcat\n'
    )
    (folder / "config" / "concepts.tsv").write_text(concepts)
    (folder / "classes.tsv").write_text('object\nship\n$(touch pwned)\'s "cat"\ndog\nhorse\n')
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    config["bases"] = {"sd": {"model": str(sd_folder), "revision": None}}
    config["tasks"] = {
        "objects": {
            "base": "sd",
            "concepts": ["ship", '$(touch pwned)\'s "cat"'],
            "methods": ["mace"],
            "evaluation": "objects",
        }
    }
    config["images"] |= {"count": 2, "steps": 2}
    config["masks"]["clipseg"]["model"] = str(clipseg_folder)
    config["templates"] = {"used": 4}
    config["methods"]["mace"]["lora"]["steps"] = 3
    rows = pd.DataFrame(
        {"type": "ship", "prompt": [f"a photo of the ship {k}" for k in range(20)], "evaluation_seed": 1}
    )
    rows.to_csv(folder / "captions.csv", index=False)
    rows.to_csv(folder / "reference.csv", index=False)
    config["priors"] = {"captions": {"file": "captions.csv", "column": "prompt"}}
    del config["methods"]["mace"]["domain_prior"]
    config["suites"] = {
        "synonyms": {
            "table": "config/concepts.tsv",
            "column": "synonyms",
            "type_column": "concept",
            "prompt": "a photo of the {}",
            "seeds": [1, 2],
        },
        "objects": {"table": "classes.tsv", "column": "object", "prompt": "a photo of the {}", "seeds": [1, 2]},
        "reference": {"file": "reference.csv"},
    }
    config["sampling"] |= {"steps": 2, "batch": 10, "shard_size": 12}
    config["evaluations"]["objects"] |= {
        "classes": {"table": "classes.tsv", "column": "object"},
        "reference_images": str(ROOT / "resources/emoji/reference/images.zip"),
        "erased": "objects",
    }
    config["measures"]["judge"]["model"] = str(clip_folder)
    config["figures"] = {"examples": {"kept": 2}}
    (folder / "config" / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


@pytest.fixture(scope="session")
def slurm() -> Iterator[dict[str, str]]:
    """The variables that lead to a SLURM of one node with two pretend GPUs."""
    if missing := missing_programs():
        pytest.skip(f"no {', '.join(missing)}: on Debian, as root, apt-get install munge slurmctld slurmd slurm-client")
    with one_node() as variables:
        yield variables


@pytest.fixture(scope="session")
def forked() -> dict[str, str]:
    """Variables with which runs share the processes that jobs, and Snakemake, are forked from, until the tests end."""
    return {WARM: str(os.getpid())}


@pytest.fixture(scope="session")
def finished(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project after a whole run, which one of pytest's workers makes; the others take a copy."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    with (shared / "finished.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        made = shared / "finished.txt"
        if made.exists():
            return shutil.copytree(made.read_text(), tmp_path_factory.mktemp("finished") / "project", symlinks=True)
        project = request.getfixturevalue("project")
        run = snakemake(project, "--cores", "2", environment=request.getfixturevalue("forked"))
        assert run.returncode == 0, run.stderr
        assert "results/tables/objects.csv" in run.stdout + run.stderr
        assert "results/figures/objects.png" in run.stdout + run.stderr
        shutil.copytree(project, shared / "finished", symlinks=True)  # before any test changes it
        made.write_text(str(shared / "finished"))
        return project


@pytest.fixture
def hub_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple]:
    """`hub_cache(folder)` puts a folder into a hub cache of the test's own, where nothing reaches a network.

    Returns the hub id and the revision under which it lies there, the first one also under `main`.
    """
    from huggingface_hub import constants, file_download

    root = tmp_path_factory.mktemp("hub")
    for module in (constants, file_download):
        if hasattr(module, "HF_HUB_CACHE"):
            monkeypatch.setattr(module, "HF_HUB_CACHE", str(root))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    here = root / "models--owner--name"

    def put(folder: Path) -> tuple[str, str]:
        number = len(list((here / "snapshots").glob("*")))
        revision = f"{number + 1:040x}"
        shutil.copytree(folder, here / "snapshots" / revision)
        if number == 0:
            (here / "refs").mkdir()
            (here / "refs" / "main").write_text(revision)
        return "owner/name", revision

    return put


@pytest.fixture
def place(tmp_path: Path, sd_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """Where a case of bad input happens: its working directory, and no network."""
    from bad_input import Place  # here, as it imports this module

    place = Place(tmp_path, sd_folder)
    place.fill()
    monkeypatch.chdir(place.work)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return place


@pytest.fixture
def base_pipeline(base_folder: Path) -> DiffusionPipeline:
    """A tiny pipeline of each family, freshly loaded."""
    return load_pipeline(str(base_folder), None, device=CPU, precision="float32")


@pytest.fixture
def base_unet(base_folder: Path) -> UNet2DConditionModel:
    """The U-Net of each family's tiny pipeline, freshly loaded."""
    return UNet2DConditionModel.from_pretrained(base_folder / "unet").eval()


@pytest.fixture
def pipeline(sd_folder: Path) -> DiffusionPipeline:
    """The tiny pipeline, freshly loaded."""
    return load_pipeline(str(sd_folder), None, device=CPU, precision="float32")


@pytest.fixture
def unet(sd_folder: Path) -> UNet2DConditionModel:
    """The tiny pipeline's U-Net, freshly loaded."""
    return UNet2DConditionModel.from_pretrained(sd_folder / "unet").eval()


@pytest.fixture(scope="session")
def tokenizer(sd_folder: Path) -> CLIPTokenizer:
    """The tiny pipeline's tokenizer: 77 tokens."""
    return CLIPTokenizer.from_pretrained(sd_folder / "tokenizer")


@pytest.fixture(scope="session")
def text_encoder(sd_folder: Path) -> CLIPTextModel:
    """The tiny pipeline's text encoder."""
    return CLIPTextModel.from_pretrained(sd_folder / "text_encoder").eval()


@pytest.fixture(scope="session")
def text(tokenizer: CLIPTokenizer, text_encoder: CLIPTextModel) -> TextEncoders:
    """The tiny pipeline's text side."""
    return TextEncoders((tokenizer,), (text_encoder,))


@pytest.fixture(scope="session")
def recipe() -> dict:
    """The recipe of the emoji world."""
    return yaml.safe_load((ROOT / "config" / "emoji_world.yaml").read_text())


@pytest.fixture(scope="session")
def world() -> World:
    """The emoji world as its tables tell it."""
    return read_world(ROOT / WORLD)


@pytest.fixture(scope="session")
def world_tokenizer(world: World, recipe: dict, tmp_path_factory: pytest.TempPathFactory) -> CLIPTokenizer:
    """The emoji world's tokenizer: 28 tokens, whole words."""
    return train_tokenizer(tokenizer_corpus(world), tmp_path_factory.mktemp("tokenizer"), **recipe["tokens"])


@pytest.fixture(scope="session")
def icons(world: World) -> np.ndarray:
    """Made-up icons: a disc each, in the colour `[1 + subject // 16, 1 + subject % 16, 1 + style] * 8`."""
    y, x = np.mgrid[:96, :96] - 47.5
    drawn = np.zeros((len(world.subjects), len(world.styles), 96, 96, 4), np.uint8)
    numbers = np.arange(len(world.subjects))[:, None, None, None]
    drawn[..., 0], drawn[..., 1] = 8 * (1 + numbers // 16), 8 * (1 + numbers % 16)
    drawn[..., 2] = 8 * (1 + np.arange(len(world.styles))[None, :, None, None])
    drawn[..., 3] = 255 * (x**2 + y**2 < 46**2)
    return drawn


@pytest.fixture
def drawn() -> Callable[..., Tensor]:
    """`drawn(*shape, seed=0)`: standard normal numbers in float64, the same for the same seed and shape."""

    def draw(*shape: int, seed: int = 0) -> Tensor:
        return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return draw


def unet_inputs(unet: UNet2DConditionModel, drawn: Callable[..., Tensor], rows: int = 2) -> dict:
    """Something to read for a tiny U-Net of any family; timesteps differ."""
    inputs = dict(
        sample=drawn(rows, 4, 8, 8, seed=1).float(),
        timestep=torch.arange(rows) * 690 // max(rows - 1, 1) + 10,
        encoder_hidden_states=drawn(rows, WINDOW, unet.config.cross_attention_dim, seed=2).float(),
        added_cond_kwargs={},
    )
    if unet.config.addition_embed_type == "text_time":
        sizes = torch.tensor([[32.0, 32, 0, 0, 32, 32]]).repeat(rows, 1)
        inputs["added_cond_kwargs"] = {"text_embeds": drawn(rows, 24, seed=3).float(), "time_ids": sizes}
    return inputs


@pytest.fixture(scope="session")
def some_rows() -> pd.DataFrame:
    """Four rows as a suite makes them; two share a prompt, two a seed."""
    rows = [
        ("ship", "a photo of the ship", 1),
        ("ship", "a photo of the ship", 2),
        ("bird", "a bird in the sky", 2),
        ("cat", "a picture of a cat on the ground", 7),
    ]
    return pd.DataFrame(rows, columns=["type", "prompt", "evaluation_seed"]).rename_axis("row")
