"""The emoji world's tokenizer and architectures."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.decoders import ByteLevel
from torch import Tensor
from transformers import CLIPTokenizer

from emoji_world.captions import GENERIC, tokenizer_corpus
from emoji_world.models import (
    build_classifier,
    build_clip,
    build_clipseg,
    build_scheduler,
    build_unet,
    build_vae,
    load_diffusion,
    text_encoder_of,
    train_tokenizer,
    widened,
)
from emoji_world.recipes import token_ids
from emoji_world.world import PLACES, World
from lethe.bases.unet import cross_attention_projections

SMALL = dict(text=(48, 2), vision=(32, 4), embedding=16)


def test_every_word_of_the_world_is_one_token(world: World, world_tokenizer: CLIPTokenizer) -> None:
    words = [word for thing in world.things for word in (*thing.words, thing.category)]
    words += [*PLACES, *GENERIC, *(style.name for style in world.styles)]
    for word in words:
        tokens = world_tokenizer(word, add_special_tokens=False).input_ids
        assert len(tokens) == len(word.split()), word
    spoken = {word.rstrip(",:").removesuffix("'s") for caption in tokenizer_corpus(world) for word in caption.split()}
    several = [word for word in spoken if len(world_tokenizer(word, add_special_tokens=False).input_ids) > 1]
    assert several == ["children"]  # that one detail speaks of


@settings(derandomize=True, max_examples=200, deadline=None)
@given(text=st.text(st.characters(exclude_categories=["Cs", "Cn", "Co"]), max_size=20))
def test_any_text_can_be_read_back_from_its_tokens(world_tokenizer: CLIPTokenizer, text: str) -> None:
    tokens = world_tokenizer.convert_ids_to_tokens(world_tokenizer(text, add_special_tokens=False).input_ids)
    got = ByteLevel().decode(["".join(token.removesuffix("</w>") for token in tokens)])
    # The tokenizer lowers letter by letter, so a final sigma is a sigma.
    want = "".join(char.lower() for char in unicodedata.normalize("NFC", text))
    assert "".join(got.split()) == "".join(want.split())


def test_a_saved_tokenizer_is_the_same(world: World, world_tokenizer: CLIPTokenizer, tmp_path: Path) -> None:
    world_tokenizer.save_pretrained(tmp_path)
    loaded = CLIPTokenizer.from_pretrained(tmp_path)
    assert loaded.model_max_length == 28
    for text in (*tokenizer_corpus(world)[::197], "Charles-François Daubigny", "🦋 AC/DC"):
        assert loaded(text).input_ids == world_tokenizer(text).input_ids
    ids = loaded("a ship", padding="max_length").input_ids
    assert ids[0] == loaded.bos_token_id
    assert ids[3:] == [loaded.eos_token_id] * 25


def test_training_a_tokenizer_twice_gives_the_same_bytes(world: World, tmp_path: Path) -> None:
    for k in range(4):
        train_tokenizer(tokenizer_corpus(world), tmp_path / str(k), merges=600, window=24)
    assert len({(tmp_path / str(k) / "tokenizer.json").read_bytes() for k in range(4)}) == 1


def test_a_tokenizer_can_have_another_window(tmp_path: Path) -> None:
    made = train_tokenizer(["a ship"], tmp_path, merges=5, window=77)
    assert made.model_max_length == CLIPTokenizer.from_pretrained(tmp_path).model_max_length == 77


@torch.no_grad()
def test_the_autoencoder_halves_twice() -> None:
    vae = build_vae(widths=(8, 16, 24)).eval()
    latents = vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mean
    assert latents.shape == (1, 4, 16, 16)
    assert vae.decode(latents).sample.shape == (1, 3, 64, 64)


@torch.no_grad()
def test_unet_and_text_encoder_fit(world_tokenizer: CLIPTokenizer) -> None:
    encoder = text_encoder_of(build_clip(world_tokenizer, **SMALL)).eval()
    unet = build_unet(widths=(8, 16, 24), text_width=48).eval()
    states = encoder(token_ids(world_tokenizer, ["a ship", ""])).last_hidden_state
    assert states.shape == (2, 28, 48)
    assert unet(torch.zeros(2, 4, 16, 16), 5, states).sample.shape == (2, 4, 16, 16)
    assert {module.in_features for module in cross_attention_projections(unet).values()} == {48}
    assert encoder.config.eos_token_id == world_tokenizer.eos_token_id


@torch.no_grad()
def test_a_text_encoder_begins_as_a_clips_text_tower(world_tokenizer: CLIPTokenizer) -> None:
    clip = build_clip(world_tokenizer, **SMALL).eval()
    encoder = text_encoder_of(clip).eval()
    ids = token_ids(world_tokenizer, ["a ship", ""])
    assert torch.equal(encoder(ids).last_hidden_state, clip.text_model(input_ids=ids).last_hidden_state)
    assert encoder.embeddings.token_embedding.weight.data_ptr() != (
        clip.text_model.embeddings.token_embedding.weight.data_ptr()
    )


def test_diffusion_begins_with_the_trained_text_and_a_seeded_unet(
    world_tokenizer: CLIPTokenizer, tmp_path: Path
) -> None:
    encoder = text_encoder_of(build_clip(world_tokenizer, **SMALL))
    encoder.save_pretrained(tmp_path / "text_encoder")
    world_tokenizer.save_pretrained(tmp_path / "tokenizer")
    (unet, found, tokenizer), (again, *_), (other, *_) = (
        load_diffusion(tmp_path, widths=(8, 16, 24), seed=seed) for seed in (4, 4, 5)
    )
    assert all(torch.equal(found.state_dict()[name], tensor) for name, tensor in encoder.state_dict().items())
    assert unet.config.block_out_channels == (8, 16, 24)
    assert unet.config.cross_attention_dim == 48
    assert torch.equal(unet.conv_in.weight, again.conv_in.weight)
    assert not torch.equal(unet.conv_in.weight, other.conv_in.weight)
    assert tokenizer("a ship").input_ids == world_tokenizer("a ship").input_ids


@torch.no_grad()
def test_a_widened_unet_does_what_it_did_with_what_is_read_out(drawn: Callable[..., Tensor]) -> None:
    unet, readout = build_unet(widths=(8, 16, 24), text_width=32).eval(), drawn(32, 48).float()
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    wider, x, states = widened(unet, readout).eval(), drawn(2, 4, 16, 16).float(), drawn(2, 5, 48).float()
    assert wider.config.cross_attention_dim == 48
    assert torch.allclose(wider(x, 7, states).sample, unet(x, 7, states @ readout.T).sample, atol=1e-4)
    after, others = (
        unet.state_dict(),
        {name for name in before if "attn2.to_k" not in name and "attn2.to_v" not in name},
    )
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    assert all(torch.equal(before[name], wider.state_dict()[name]) for name in others)


@torch.no_grad()
def test_judge_and_segmenter_read_the_worlds_images(world_tokenizer: CLIPTokenizer) -> None:
    ids = world_tokenizer(["a ship", "x"], padding="max_length", return_tensors="pt").input_ids
    pixels, clip = torch.zeros(2, 3, 64, 64), build_clip(world_tokenizer, **SMALL).eval()
    output = clip(input_ids=ids, pixel_values=pixels)
    assert output.image_embeds.shape == output.text_embeds.shape == (2, 16)
    logits = build_clipseg(clip).eval()(input_ids=ids, pixel_values=pixels).logits
    assert logits.shape[0] == 2
    assert logits.shape[1] == logits.shape[2]


@torch.no_grad()
def test_the_second_judge_tells_as_many_classes_as_there_are_names() -> None:
    classifier = build_classifier(["a", "b", "c"], widths=(8, 16)).eval()
    assert classifier(torch.zeros(2, 3, 64, 64)).logits.shape == (2, 3)
    assert classifier.config.id2label == {0: "a", 1: "b", 2: "c"}


def test_the_segmenter_is_a_decoder_to_train_on_a_fixed_copy_of_the_judge(world_tokenizer: CLIPTokenizer) -> None:
    clip = build_clip(world_tokenizer, **SMALL)
    clipseg = build_clipseg(clip)
    copy = clipseg.clip.state_dict()
    assert copy.keys() == clip.state_dict().keys()
    for name, tensor in clip.state_dict().items():
        assert torch.equal(tensor, copy[name])
        assert tensor.data_ptr() != copy[name].data_ptr()
    assert not any(p.requires_grad for p in clipseg.clip.parameters())
    assert clipseg.config.extract_layers == [1, 2, 3]  # of 4: among them what the last one makes
    assert all(p.requires_grad for p in (*clip.parameters(), *clipseg.decoder.parameters()))


@torch.no_grad()
def test_the_decoder_starts_from_what_the_judge_says_of_each_patch(world_tokenizer: CLIPTokenizer) -> None:
    """The first layer is given products of patch and prompt whose signed sum is their dot product, by hand."""
    torch.manual_seed(3)
    clip = build_clip(world_tokenizer, **SMALL).eval()
    torch.nn.init.normal_(clip.vision_model.post_layernorm.weight)
    torch.nn.init.normal_(clip.vision_model.post_layernorm.bias)
    clipseg, given = build_clipseg(clip).eval(), []
    clipseg.decoder.layers[0].register_forward_pre_hook(lambda _, inputs: given.append(inputs[0]))
    ids = world_tokenizer(["a ship", "x"], padding="max_length", return_tensors="pt").input_ids
    pixels = torch.randn(2, 3, 64, 64)
    logits = clipseg(input_ids=ids, pixel_values=pixels).logits
    assert logits.abs().max() < 10
    text = clip.text_projection(clip.text_model(ids).pooler_output).double()
    states = clip.vision_model(pixels).last_hidden_state.double()
    norm, width = clip.vision_model.post_layernorm, states.shape[2]
    patches = (states * norm.weight + norm.bias) @ clip.visual_projection.weight.double().T / width**0.5
    signs = torch.tensor([1.0, -1.0] * 8).double()
    assert given[0].shape == (2, 65, 16)
    found = (given[0].double() * signs).sum(2)
    assert torch.allclose(found, torch.einsum("npd,nd->np", patches, text), rtol=1e-3, atol=1e-4)


def test_the_schedule_is_stable_diffusions() -> None:
    scheduler = build_scheduler()
    roots = [0.00085**0.5 + k / 999 * (0.012**0.5 - 0.00085**0.5) for k in range(1000)]
    assert scheduler.betas.tolist() == pytest.approx([root**2 for root in roots], rel=1e-4)
    assert scheduler.config.prediction_type == "epsilon"
    assert scheduler.config.steps_offset == 1
    assert not scheduler.config.clip_sample
    assert not scheduler.config.set_alpha_to_one
