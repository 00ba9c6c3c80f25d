"""FMN, Forget-Me-Not (arXiv 2303.17591): attention to a concept's words is trained away on images of the concept.

The loss is one norm, not squared, over all cross-attention layers together: || A_l[heads, pixels, S] for all l ||. A
are probabilities while noisy latents of an image are denoised, S the places of the concept's tokens and of the end of
text. With textual inversion (arXiv 2208.01618) the tokens are new ones, learned from the images beforehand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTokenizer

from lethe.bases.base import Base
from lethe.bases.denoising import conditions_of, predicted
from lethe.bases.embeddings import Words, with_words, words_in
from lethe.bases.text import TextEncoders
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.attention import recorded_attention
from lethe.erasure.noising import Pictures
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, train
from lethe.files.tensors import read_tensors, write_tensors
from lethe.inputs.concepts import Concept


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Train the U-Net on images of all concepts together, each image as likely as the other.

    `settings` are those of the manifest, and `seed`. `reads` holds for each concept its `images`, uint8 `[h, w, 3]`. In
    `workspace` lie checkpoints of trainings cut off, and words that are learned.
    Raises ValueError without concepts, for one that does not fit into the text encoder's window, and for a base that
    cannot be trained; FloatingPointError as `lethe.erasure.training.train` does.
    """
    if not concepts:
        raise ValueError("fmn: `concepts` must hold at least one concept; got none")
    unet, seed = base.pipeline.unet, settings["seed"]
    student = Student(unet, parameter_names(unet, settings["parameters"]))
    shown, asked, looked, owner = [], [], [], []
    for number, (concept, images) in enumerate(zip(concepts, reads["images"], strict=True)):
        pictures = Pictures.of(base, images, seed=seed)
        shown.append(pictures.latents)
        owner += [number] * len(images)
        tokens = settings["inversion"]["tokens"] if settings["textual_inversion"] else None
        words = words_for(base.text, concept, tokens)
        conditions = conditions_of(base.text, [words.prompt], pictures.size)
        if tokens is not None:
            added = conditions.added
            learned = _learned(base, concept, words, pictures, added, settings, workspace, number)
            with torch.no_grad():
                conditions = with_words(base.text, words, learned, added)
        asked.append(conditions)
        looked.append(looked_at(base.text.tokenizer, words, use_pooler=settings["use_pooler"]))
    every = replace(pictures, latents=torch.cat(shown))

    with recorded_attention(unet) as recorder:

        def loss_of_step(generator: torch.Generator) -> Tensor:
            which, times = every.drawn(1, generator)
            noisy, _ = every.noisy(which, times, generator)
            place = owner[int(which)]
            recorder.layers.clear()
            recorder.tokens = looked[place].to(noisy.device)
            predicted(student, noisy, times.to(noisy.device), asked[place])
            return attention_norm(recorder.layers)

        train(
            student.values,
            loss_of_step,
            Budget(settings["steps"], settings["learning_rate"]),
            seed=seed,
            dtype=base.dtype,
            name="FMN",
            checkpoint=None if workspace is None else workspace / "fmn.safetensors",
        )
    return WeightEdit(student.weights())


def attention_norm(layers: Sequence[Tensor]) -> Tensor:
    """The Frobenius norm, float32, of all layers' probabilities together, `[batch, heads, pixels, window]` each."""
    return torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(layer.float()) for layer in layers]))


def parameter_names(unet: UNet2DConditionModel, chosen: str) -> list[str]:
    """The parameters that train: all, or those of cross-attention (x), its queries and outputs among them."""
    names = [name for name, _ in unet.named_parameters()]
    return names if chosen == "all" else [name for name in names if ".attn2." in name]


def words_for(text: TextEncoders, concept: Concept, tokens: int | None) -> Words:
    """A photo of a concept, or in the style of one; with so many tokens of their own in the name's place.

    Those have the id of the name's first token: what stands there is put in later (`with_words`). Raises ValueError for
    a prompt that does not fit into the window, or that the base's tokenizers count differently.
    """
    template = "a photo in the style of {}" if concept.kind == "style" else "a photo of {}"
    return words_in(text, template, concept.name, tokens, by="fmn", mend="lower inversion.tokens of the method")


def looked_at(tokenizer: CLIPTokenizer, words: Words, *, use_pooler: bool) -> Tensor:
    """Which tokens the loss looks at, bool `[1, window]`: the concept's wherever they stand, and the end of text."""
    ids = words.ids[0][0]
    run, chosen = ids[words.place.start : words.place.stop], torch.zeros(len(ids), dtype=torch.bool)
    for start in range(len(ids) - len(run) + 1):
        if torch.equal(ids[start : start + len(run)], run):
            chosen[start : start + len(run)] = True
    return (chosen | (ids == tokenizer.eos_token_id) if use_pooler else chosen)[None]


# Textual inversion


def beginnings(text: TextEncoders, words: Words, name: str, *, seed: int) -> dict[str, nn.Parameter]:
    """What learned embeddings begin as, float32 `[tokens, d]` of each encoder by its number.

    The first half are the mean of the name's own tokens, the others normal with the table's deviation.
    """
    generator, found = torch.Generator().manual_seed(seed), {}
    for number, (tokenizer, encoder) in enumerate(zip(text.tokenizers, text.encoders, strict=True)):
        table = encoder.get_input_embeddings().weight.detach().float()
        own = table[tokenizer(name, add_special_tokens=False, truncation=True)["input_ids"]].mean(0)
        at_random = torch.randn(len(words.place), table.shape[1], generator=generator).to(table) * table.std()
        at_random[: (len(words.place) + 1) // 2] = own
        found[str(number)] = nn.Parameter(at_random)
    return found


def _learned(
    base: Base,
    concept: Concept,
    words: Words,
    pictures: Pictures,
    added: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    workspace: Path | None,
    number: int,
) -> Mapping[str, Tensor]:
    """Embeddings of a concept's own, with which the U-Net as it is predicts best what its images are."""
    done = None if workspace is None else workspace / f"words-{number}.safetensors"
    if done is not None and done.exists():
        return {name: values.to(base.device) for name, values in read_tensors(done)[0].items()}
    frozen = Student(base.pipeline.unet, ())
    values = beginnings(base.text, words, concept.name, seed=settings["seed"])

    def loss_of_step(generator: torch.Generator) -> Tensor:
        return pictures.mean_loss(frozen, with_words(base.text, words, values, added), 1, generator)

    chosen = settings["inversion"]
    train(
        values,
        loss_of_step,
        Budget(
            chosen["steps"],
            chosen["learning_rate"],
            weight_decay=0.0,
            max_grad_norm=None,
            mend="lower inversion.learning_rate of the method",
        ),
        seed=settings["seed"],
        dtype=base.dtype,
        name=f"words for {concept.name}",
        checkpoint=None if workspace is None else workspace / f"inversion-{number}.safetensors",
    )
    if done is not None:
        write_tensors(done, values, {})
    return values
