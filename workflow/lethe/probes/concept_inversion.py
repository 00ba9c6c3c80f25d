"""Concept inversion: a new word that means the concept to the edited U-Net.

Some token that no prompt holds takes the learned embedding in its place, so that prompts stay texts, and whatever reads
them, an edit by guidance too, reads the word. SDXL's two encoders have an embedding each.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lethe.attacks.denoising import images_of, sizes_of
from lethe.attacks.tokens import unused
from lethe.attacks.trials import ATTACK, PLAIN, SEARCH, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.denoising import Conditions
from lethe.bases.embeddings import Words, new_word, with_words
from lethe.bases.text import TextEncoders
from lethe.edits.edit import Edit
from lethe.erasure.noising import Pictures
from lethe.erasure.training import Budget, frozen, train
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import fill

IMAGES = 8_000_000  # seeds of the images to learn from begin here, apart from all others
HELD_OUT = 64  # draws of image, time and noise by which trainings are compared


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Learn a word at each rate, take the one of the lowest loss, and ask for it.

    On an edit by guidance the loss is that of the U-Net without its rule; what is drawn has it.
    """
    trials = workspace.trials(concept)
    images = images_of(base, concept.name, settings["images"], workspace, first_seed=IMAGES)
    pictures = Pictures.of(base, images, seed=workspace.seed)
    token, word = unused(base.text, [*settings["templates"], workspace.prompt])
    prompt = fill(workspace.prompt, word)
    start = beginning(base.text, settings["start"])
    with workspace.pipeline_of(base, edit) as pipeline:
        plain = [Try("the word to begin with", prompt)] * len(workspace.search)
        with new_word(base.text, token, start):
            trials.add(PLAIN, SEARCH, plain, workspace.search, workspace.draw_tries(pipeline, plain, workspace.search))
        learned, told = {}, {}
        for rate in settings["learning_rates"]:
            learned[rate] = trained(base, pictures, token, word, start, rate, settings, workspace)
            told[rate] = held_out(base, pictures, token, word, learned[rate], settings, workspace)
        best = min(told, key=lambda rate: told[rate])
        one = Try(f"learning rate {best:g}", prompt, (token,), tuple(learned[best][0].tolist()))
        with new_word(base.text, token, learned[best]):
            again = [one] * len(workspace.search)
            trials.add(ATTACK, SEARCH, again, workspace.search, workspace.draw_tries(pipeline, again, workspace.search))
            workspace.reported(pipeline, trials, one)
    return trials


def beginning(text: TextEncoders, word: str) -> list[Tensor]:
    """The mean embedding of a word's tokens, float32 `[d]`, for each encoder."""
    ids = text.tokenizer(word, add_special_tokens=False)["input_ids"]
    return [encoder.get_input_embeddings().weight.detach()[ids].float().mean(0) for encoder in text.encoders]


def trained(
    base: Base,
    pictures: Pictures,
    token: int,
    word: str,
    start: list[Tensor],
    rate: float,
    settings: Mapping[str, Any],
    workspace: Workspace,
) -> list[Tensor]:
    """The embedding after a training, for each encoder."""
    values = {str(number): nn.Parameter(embedding[None].clone()) for number, embedding in enumerate(start)}
    n = settings["batch"]

    def loss_of_step(generator: torch.Generator) -> Tensor:
        return loss(base, pictures, token, word, values, n, settings, generator)

    budget = Budget(
        settings["steps"], rate, weight_decay=0.0, max_grad_norm=None, mend="lower learning_rates of the probe"
    )
    checkpoint = None if workspace.folder is None else workspace.folder / f"inversion-{rate:g}.safetensors"
    with frozen(base.pipeline.unet.parameters()):
        train(
            values, loss_of_step, budget, seed=workspace.seed, dtype=base.dtype, name="new word", checkpoint=checkpoint
        )
    return [value.detach()[0] for value in values.values()]


@torch.no_grad()
def held_out(
    base: Base,
    pictures: Pictures,
    token: int,
    word: str,
    learned: list[Tensor],
    settings: Mapping[str, Any],
    workspace: Workspace,
) -> float:
    """The loss on the same draws for every training."""
    generator = torch.Generator().manual_seed(workspace.seed + 1)
    values = {str(number): embedding[None] for number, embedding in enumerate(learned)}
    return loss(base, pictures, token, word, values, HELD_OUT, settings, generator).item()


def loss(
    base: Base,
    pictures: Pictures,
    token: int,
    word: str,
    values: Mapping[str, Tensor],
    n: int,
    settings: Mapping[str, Any],
    generator: torch.Generator,
) -> Tensor:
    """The mean loss of n images at random times, all with one of the templates, drawn too."""
    template = settings["templates"][int(torch.randint(len(settings["templates"]), (), generator=generator))]
    condition = asked(base, fill(template, word), token, values, pictures.size)
    return pictures.mean_loss(base.pipeline.unet, condition, n, generator)


def asked(base: Base, prompt: str, token: int, values: Mapping[str, Tensor], size: tuple[int, int]) -> Conditions:
    """What the U-Net reads of a prompt in which a token has the values; gradients reach these."""
    ids = [
        tokenizer([prompt], padding="max_length", truncation=True, return_tensors="pt").input_ids
        for tokenizer in base.text.tokenizers
    ]
    at = int((ids[0][0] == token).nonzero()[0])
    words = Words(prompt, tuple(ids), range(at, at + 1))
    return with_words(base.text, words, values, sizes_of(base, size, 1))
