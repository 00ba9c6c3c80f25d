"""Architectures of the emoji world's models and its tokenizer: all stock diffusers and transformers classes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor, nn
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    ResNetConfig,
    ResNetForImageClassification,
)

from emoji_world.renders import SIZE
from lethe.bases.loading import load_network, load_tokenizer
from lethe.bases.unet import PROJECTIONS

LATENT_CHANNELS = 4
LATENT_SIZE = 16
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def train_tokenizer(captions: Iterable[str], folder: Path, *, merges: int, window: int) -> CLIPTokenizer:
    """Train byte-pair merges on `captions`, write a CLIP tokenizer that reads `window` tokens to `folder`, return it.

    Every byte is in the vocabulary, so any name can be tokenised; frequent words become one token.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=512 + merges,
        min_frequency=1,
        show_progress=False,
        end_of_word_suffix="</w>",
        initial_alphabet=alphabet,
        # Else the letters at word ends are numbered in changing order, which decides between equally frequent merges.
        special_tokens=[letter + "</w>" for letter in alphabet],
    )
    tokenizer.train_from_iterator(captions, trainer)
    learned = [tuple(merge) for merge in json.loads(tokenizer.to_str())["model"]["merges"]]
    words = [*alphabet, *(letter + "</w>" for letter in alphabet)]
    words += [pair for pair in dict.fromkeys(left + right for left, right in learned) if pair not in set(words)]
    vocabulary = {word: index for index, word in enumerate([*words, "<|startoftext|>", "<|endoftext|>"])}
    tokenizer = CLIPTokenizer(vocab=vocabulary, merges=learned, model_max_length=window)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_vae(*, widths: Sequence[int]) -> AutoencoderKL:
    """64x64x3 images to 16x16x4 latents and back, `widths` channels at 64, 32 and 16 pixels."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=tuple(widths),
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=8,
        mid_block_add_attention=False,
        sample_size=SIZE,
    )


def build_unet(*, widths: Sequence[int], text_width: int) -> UNet2DConditionModel:
    """A U-Net on 16x16x4 latents, `widths` channels at 16, 8 and 4 pixels; cross-attention at 8x8 and 4x4."""
    return UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=tuple(widths),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=8,
        cross_attention_dim=text_width,
    )


def build_scheduler() -> DDIMScheduler:
    """The noise schedule of Stable Diffusion 1.x: 1000 steps, scaled-linear, noise prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def load_diffusion(
    text: Path, *, widths: Sequence[int], seed: int
) -> tuple[UNet2DConditionModel, CLIPTextModel, CLIPTokenizer]:
    """The U-Net, new, and the text encoder as their joint training finds them, and the tokenizer.

    `text` is the folder of the text encoder's start: `text_encoder` and `tokenizer`.
    """
    encoder = load_network(CLIPTextModel, text / "text_encoder", dtype=torch.float32)
    torch.manual_seed(seed)
    unet = build_unet(widths=widths, text_width=encoder.config.hidden_size)
    return unet, encoder, load_tokenizer(text / "tokenizer", encoder.config)


def build_pipeline(
    vae: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    """A pipeline of these parts, without safety checker."""
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def build_clip(tokenizer: CLIPTokenizer, *, text: Sequence[int], vision: Sequence[int], embedding: int) -> CLIPModel:
    """A CLIP that reads 8-pixel patches; `text` and `vision` are width and layers of its two towers."""
    return CLIPModel(
        CLIPConfig(
            text_config=_text_settings(tokenizer, width=text[0], layers=text[1]) | dict(projection_dim=embedding),
            vision_config=_vision_settings(width=vision[0], layers=vision[1]) | dict(projection_dim=embedding),
            projection_dim=embedding,
        )
    )


def build_classifier(names: Sequence[str], *, widths: Sequence[int]) -> ResNetForImageClassification:
    """A residual network that tells which of `names` a 64x64 image shows; `widths` channels at 16, 8, 4, 2 pixels."""
    return ResNetForImageClassification(
        ResNetConfig(
            embedding_size=widths[0],
            hidden_sizes=list(widths),
            depths=[2] * len(widths),
            layer_type="basic",
            id2label=dict(enumerate(names)),
            label2id={name: k for k, name in enumerate(names)},
        )
    )


def build_text_encoder(tokenizer: CLIPTokenizer, *, text: Sequence[int]) -> CLIPTextModel:
    """A pipeline's text encoder, new; `text` is its width and layers."""
    return CLIPTextModel(CLIPTextConfig(**_text_settings(tokenizer, width=text[0], layers=text[1])))


def widened(unet: UNet2DConditionModel, readout: Tensor) -> UNet2DConditionModel:
    """The U-Net for text states e of another width, of which `readout` R `[narrow, wide]` makes those that it knows.

    Each cross-attention projection W becomes W R, so that it makes of e what W made of R e.
    """
    wider = UNet2DConditionModel.from_config({**unet.config, "cross_attention_dim": readout.shape[1]})
    weights = unet.state_dict()
    for name in weights:
        if name.removesuffix(".weight").endswith(PROJECTIONS):
            weights[name] = weights[name] @ readout
    wider.load_state_dict(weights)
    return wider


def text_encoder_of(clip: CLIPModel) -> CLIPTextModel:
    """The text tower of a CLIP, as a pipeline's text encoder: the same weights, without the projection."""
    encoder = CLIPTextModel(clip.config.text_config)
    encoder.load_state_dict(clip.text_model.state_dict())
    return encoder


def build_clipseg(clip: CLIPModel) -> CLIPSegForImageSegmentation:
    """Text-prompted segmentation of 64x64 images: a decoder to train on a copy of `clip`, which stays as it is.

    It reads three layers of the vision tower, the last one among them: those before tell little of which subject is
    where. It starts by comparing patches and prompt as `clip` compares image and text: from random weights it learns
    to find a subject that is alone and hardly ever which of two is asked for.
    """
    vision, width = clip.config.vision_config, clip.config.projection_dim
    layers = vision.num_hidden_layers
    clipseg = CLIPSegForImageSegmentation(
        CLIPSegConfig(
            text_config=clip.config.text_config.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=width,
            extract_layers=[layers // 3, 2 * layers // 3, layers - 1],
            reduce_dim=width,
            decoder_num_attention_heads=4,
            decoder_intermediate_size=4 * width,
            conditional_layer=0,
            use_complex_transposed_convolution=True,
        )
    )
    clipseg.clip.load_state_dict(clip.state_dict())
    clipseg.clip.requires_grad_(False)
    decoder = clipseg.decoder
    for module in decoder.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
            module.reset_parameters()  # transformers draws weights so large that logits start in the thousands
    norm, project = clip.vision_model.post_layernorm, clip.visual_projection.weight / vision.hidden_size**0.5
    # Half of the products with a minus: the norms of the decoder's layers take off what all numbers of a patch share.
    signs = torch.ones(width)
    signs[1::2] = -1
    with torch.no_grad():
        decoder.reduces[0].weight.copy_(project * norm.weight)
        decoder.reduces[0].bias.copy_(project @ norm.bias)
        decoder.film_mul.weight.copy_(torch.diag(signs))
        for zero in (decoder.film_mul.bias, decoder.film_add.weight, decoder.film_add.bias):
            zero.zero_()
    return clipseg


def save_processor(folder: Path) -> None:
    """Write beside a model how it reads images: as they are, 64x64, normalised by CLIP's mean and deviation."""
    CLIPImageProcessor(size={"shortest_edge": SIZE}, crop_size=SIZE).save_pretrained(folder)


def _text_settings(tokenizer: CLIPTokenizer, *, width: int, layers: int) -> dict:
    return dict(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        max_position_embeddings=tokenizer.model_max_length,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.eos_token_id,
    )


def _vision_settings(*, width: int, layers: int) -> dict:
    return dict(
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        image_size=SIZE,
        patch_size=8,
    )
