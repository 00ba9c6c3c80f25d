"""Hardened: the whole U-Net is trained so that neither names nor words learned for the purpose draw a concept.

    e(x_t, c) -> e*(x_t, a)      e(x_t, w) -> e*(x_t, a)      e(x'_t, k) -> e*(x'_t, k)

e* is the U-Net as it was. x_t are noised images of a concept, c its name in a prompt, a its anchor in the same prompt,
w a word in it with which the U-Net, as far as it is trained, denoises those images best: what concept inversion finds
(arXiv 2308.01508). x'_t are noised images of what should stay and k their prompts. Words are learned anew in every
round, and those of all rounds are trained away. The first target is that of AC (arXiv 2303.13516), on images of the
concept; training against what an attack finds is that of adversarial training.

Why not in closed form alone: an edit of keys and values is linear in a token's state, so what holds many names holds
all that lies between them, where nearly all of a concept's state lies too. Training begins with one all the same (that
of `lethe`): names are gone at once, and the rest is for words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from lethe.bases.base import Base
from lethe.bases.denoising import Conditions, conditions_of, predicted
from lethe.bases.embeddings import Words, with_words, words_in
from lethe.bases.pipeline import use_scheduler
from lethe.bases.sampling import sample_rows
from lethe.bases.schedulers import training_schedule
from lethe.bases.text import TextEncoders
from lethe.edits.edit import Edit
from lethe.edits.weights import WeightEdit
from lethe.erasure.moments import Moment
from lethe.erasure.noising import Pictures
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, frozen, train
from lethe.files.tensors import read_tensors, write_tensors
from lethe.inputs.concepts import Concept
from lethe.inputs.templates import check_prompts, fill
from lethe.inputs.texts import unnamed
from lethe.methods.fmn import parameter_names
from lethe.methods.lethe import solve
from lethe.methods.uce import edit_of

DRAWN_FROM = 6_000_000  # seeds of images of what stays begin here, apart from those of images, suites and attacks
BATCH = 8  # images drawn at once


@dataclass(frozen=True)
class Erased:
    """A concept as it trains: its images, and what the U-Net reads of prompts with its name and with its anchor.

    `places` are the prompts with a token of a word's own in the name's place.
    """

    concept: Concept
    pictures: Pictures
    named: Conditions
    anchored: Conditions
    places: Sequence[Words]


@dataclass(frozen=True)
class Retained:
    """Images of what should stay, and what the U-Net reads of the prompt of each."""

    pictures: Pictures
    prompts: Conditions


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """In every round learn a word for each concept, then train the U-Net away from it, all concepts together.

    `settings` are those of the manifest, and `seed`. `reads` holds each concept's `images`, uint8 `[h, w, 3]`, and
    `prior`, a Moment or None. In `workspace` lie what was drawn, words, and checkpoints.
    Raises ValueError without concepts or anything to retain, as `begun` and `check_prompts` do, for a prompt that does
    not fit into the text encoder's window, and for a base that cannot be trained; FloatingPointError as
    `lethe.erasure.training.train` does.
    """
    if not concepts:
        raise ValueError("hardened: `concepts` must hold at least one concept; got none")
    check_prompts(settings["prompts"])
    erased = [erased_of(base, *one, settings) for one in zip(concepts, reads["images"], strict=True)]
    kept = retained(base, concepts, settings, _file(workspace, "retained"), size=erased[0].pictures.size)
    unet, seed = base.pipeline.unet, settings["seed"]
    student = Student(unet, parameter_names(unet, settings["parameters"]))
    if settings["closed_form"]["use"]:
        student.load(student.values | begun(base, concepts, settings, reads["prior"]))
    words: list[list[Conditions]] = [[] for _ in concepts]
    rounds, finished = _file(workspace, "rounds"), 0  # one file for all, since it is as large as the U-Net
    if rounds is not None and rounds.exists():
        values, told = read_tensors(rounds)
        student.load(values)
        finished = told["rounds"]
    for number in range(settings["rounds"]):
        for place, one in enumerate(erased):
            if settings["word"]["steps"]:
                learned = learned_word(base, student, one, settings, number, _file(workspace, f"word-{number}-{place}"))
                words[place].append(worded(base.text, one, learned))
        if number < finished:
            continue
        train(
            student.values,
            lambda generator: loss(unet, student, erased, words, kept, settings, generator),
            Budget(
                settings["steps"], settings["learning_rate"], optimiser="adam", weight_decay=0.0, max_grad_norm=None
            ),
            seed=seed + number,
            dtype=base.dtype,
            name=f"hardened, round {number + 1} of {settings['rounds']}",
            checkpoint=_file(workspace, "training"),
        )
        if rounds is not None:
            write_tensors(rounds, student.values, {"rounds": number + 1})
    return WeightEdit(student.weights())


def begun(
    base: Base, concepts: Sequence[Concept], settings: Mapping[str, Any], prior: Moment | None
) -> dict[str, Tensor]:
    """Keys and values as the closed form of `lethe` has them. Raises ValueError as `lethe.methods.lethe.solve` does."""
    chosen = settings["closed_form"] | {key: settings[key] for key in ("retain", "prompts")}
    return edit_of(base, solve(base.text, concepts, chosen, prior), concepts, "weights").weights


def loss(
    unet: nn.Module,
    student: Student,
    erased: Sequence[Erased],
    words: Sequence[Sequence[Conditions]],
    kept: Retained,
    settings: Mapping[str, Any],
    generator: torch.Generator,
) -> Tensor:
    """The loss of a step: the mean square of what is off for one concept, and `retain_weight` times that of what stays.

    Every other image is asked for by a word, the last one as likely as all together, and the others by the name.
    """
    n = settings["batch"]
    place = _drawn(len(erased), generator)
    one, found = erased[place], words[place]
    which, times = one.pictures.drawn(n, generator)
    asked, wanted = [], []
    for row in range(n):
        said = one.named
        if found and row % 2 == 0:
            said = found[-1] if row % 4 == 0 else found[_drawn(len(found), generator)]
        at = _drawn(len(settings["prompts"]), generator)
        asked.append(said.row(at))
        wanted.append(one.anchored.row(at))
    noisy, _ = one.pictures.noisy(which, times, generator)
    stays, times_of_kept = kept.pictures.drawn(n, generator)
    noisy_kept, _ = kept.pictures.noisy(stays, times_of_kept, generator)
    latents = torch.cat([noisy, noisy_kept])
    at, holds = torch.cat([times, times_of_kept]).to(latents.device), kept.prompts.rows(stays)
    with torch.no_grad():
        target = predicted(unet, latents, at, wanted[0].joined(*wanted[1:], holds)).float()
    made = predicted(student, latents, at, asked[0].joined(*asked[1:], holds)).float()
    off = (made - target).square().flatten(1).mean(1)
    return off[:n].mean() + settings["retain_weight"] * off[n:].mean()


def erased_of(base: Base, concept: Concept, images: Sequence[np.ndarray], settings: Mapping[str, Any]) -> Erased:
    """A concept with its images, uint8 `[h, w, 3]`, and its prompts. Raises ValueError as `erase` does."""
    pictures, templates = Pictures.of(base, images, seed=settings["seed"]), settings["prompts"]
    named, anchored = (
        conditions_of(base.text, [fill(template, words) for template in templates], pictures.size)
        for words in (concept.name, concept.anchor)
    )
    places = [words_in(base.text, template, concept.name, 1, by="hardened") for template in templates]
    return Erased(concept, pictures, named, anchored, places)


def retained(
    base: Base, concepts: Sequence[Concept], settings: Mapping[str, Any], done: Path | None, *, size: tuple[int, int]
) -> Retained:
    """Images of what should stay, of a size in pixels, with their prompts.

    Names and captions take turns, drawn at random; a name stands in a prompt drawn for it. Images are drawn once, and
    found again in the file `done`. Raises ValueError when nothing is to stay.
    """
    generator = torch.Generator().manual_seed(settings["seed"])
    sorts = [("retain", settings["prompts"]), ("captions", ["{}"])]
    sorts = [(texts, around) for key, around in sorts if (texts := unnamed(settings[key], concepts))]
    if not sorts:
        raise ValueError("hardened: nothing would hold what should stay; name it in retain or captions")
    told = []
    for number in range(settings["retain_images"]):
        texts, around = sorts[number % len(sorts)]
        told.append(fill(around[_drawn(len(around), generator)], texts[_drawn(len(texts), generator)]))
    conditions, schedule = conditions_of(base.text, told, size), training_schedule(base.pipeline.scheduler)
    if done is not None and done.exists():
        return Retained(Pictures(read_tensors(done)[0]["latents"].to(base.device), *schedule, size), conditions)
    rows = pd.DataFrame({"prompt": told, "evaluation_seed": range(DRAWN_FROM, DRAWN_FROM + len(told))})
    own = base.pipeline.scheduler
    use_scheduler(base.pipeline, "dpm-solver++")
    try:
        drawing = dict(steps=settings["sampling_steps"], guidance=settings["guidance"], batch=BATCH)
        images = sample_rows(base.pipeline, rows.assign(height=size[0], width=size[1]), **drawing)
    finally:
        base.pipeline.scheduler = own
    pictures = Pictures.of(base, images, seed=settings["seed"])
    # Laid out as a file gives them back: of another layout the U-Net's sums round otherwise.
    pictures = replace(pictures, latents=pictures.latents.contiguous())
    if done is not None:
        write_tensors(done, {"latents": pictures.latents}, {})
    return Retained(pictures, conditions)


def learned_word(
    base: Base, student: Student, one: Erased, settings: Mapping[str, Any], number: int, done: Path | None
) -> Mapping[str, Tensor]:
    """The embedding `[1, d]`, for each encoder, of a word that the student draws the concept by as well as it can.

    It begins as some word of the vocabulary, another one in every round. It is learned once, and found again in `done`.
    """
    if done is not None and done.exists():
        return {name: values.to(base.device) for name, values in read_tensors(done)[0].items()}
    seed, chosen = settings["seed"] + number, settings["word"]
    generator = torch.Generator().manual_seed(seed)
    tables = [encoder.get_input_embeddings().weight.detach().float() for encoder in base.text.encoders]
    start = _drawn(min(len(table) for table in tables), generator)
    values = {str(n): nn.Parameter(table[start : start + 1].clone()) for n, table in enumerate(tables)}

    def loss_of_step(generator: torch.Generator) -> Tensor:
        at = _drawn(len(one.places), generator)
        condition = with_words(base.text, one.places[at], values, one.named.row(at).added)
        return one.pictures.mean_loss(student, condition, chosen["batch"], generator)

    mend = "lower word.learning_rate of the method"
    with frozen(student.values.values()):
        train(
            values,
            loss_of_step,
            Budget(chosen["steps"], chosen["learning_rate"], weight_decay=0.0, max_grad_norm=None, mend=mend),
            seed=seed,
            dtype=base.dtype,
            name=f"word for {one.concept.name}, round {number + 1} of {settings['rounds']}",
        )
    if done is not None:
        write_tensors(done, values, {})
    return values


@torch.no_grad()
def worded(text: TextEncoders, one: Erased, learned: Mapping[str, Tensor]) -> Conditions:
    """What the U-Net reads of a concept's prompts with a learned word in its name's place."""
    every = [with_words(text, place, learned, one.named.row(at).added) for at, place in enumerate(one.places)]
    return every[0].joined(*every[1:])


def _drawn(count: int, generator: torch.Generator) -> int:
    return int(torch.randint(count, (), generator=generator))


def _file(workspace: Path | None, name: str) -> Path | None:
    return None if workspace is None else workspace / f"{name}.safetensors"
