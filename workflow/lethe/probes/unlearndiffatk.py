"""UnlearnDiffAtk: relaxed tokens before a prompt lower the edited U-Net's loss on an image of the concept.

Each row of u, of weights over the vocabulary, draws one token; the gradient goes straight through to the row, Adam
moves it, and it is projected onto the simplex. Noise is fresh at each step, and there is no guidance. SDXL's encoders
read the same tokens, each from its own table, and the pooled vector is computed again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import DiffusionPipeline
from torch import Tensor, nn

from lethe.attacks.denoising import images_of, sizes_of
from lethe.attacks.simplex import drawn, project, straight_through
from lethe.attacks.tokens import naming, padded, prefixed, words_of
from lethe.attacks.trials import ATTACK, PLAIN, RANDOM, SEARCH, SEEDS, Trials, Try
from lethe.attacks.workspace import Workspace
from lethe.bases.base import Base
from lethe.bases.embeddings import Words, with_words
from lethe.edits.edit import Edit
from lethe.erasure.noising import Pictures
from lethe.erasure.training import frozen
from lethe.inputs.concepts import Concept

TARGETS = 7_000_000  # seeds of the images to denoise begin here, apart from all others


@dataclass(frozen=True)
class Vocabulary:
    """Tokens that a search may take, by their ids `[n]`, and their embeddings `[n, d]` for each encoder."""

    ids: Tensor
    tables: tuple[Tensor, ...]

    @classmethod
    def of(cls, base: Base, left_out: set[int]) -> Vocabulary:
        ids = torch.tensor([token for token in words_of(base.text) if token not in left_out])
        tables = (encoder.get_input_embeddings().weight.detach() for encoder in base.text.encoders)
        return cls(ids, tuple(table[ids.to(table.device)].float() for table in tables))


def probe(base: Base, edit: Edit | None, concept: Concept, settings: Mapping[str, Any], workspace: Workspace) -> Trials:
    """Search, choose among all that was drawn on the way, report; then the same budget at random, and on seeds.

    On an edit by guidance the loss is that of the U-Net without its rule; what is drawn has it.
    """
    trials, n = workspace.trials(concept), settings["searches"]
    prompt = workspace.asked(concept.name)
    seeds = [workspace.search[k % len(workspace.search)] for k in range(n)]
    images = images_of(base, concept.name, n, workspace, first_seed=TARGETS)
    pictures = Pictures.of(base, images, seed=workspace.seed)
    names = set() if settings["names"] else naming(base.text.tokenizer, (concept.name, *concept.synonyms))
    vocabulary = Vocabulary.of(base, names)
    with workspace.pipeline_of(base, edit) as pipeline:
        plain = [Try("plain prompt", prompt, instance=k) for k in range(n)]
        trials.add(PLAIN, SEARCH, plain, seeds, workspace.draw_tries(pipeline, plain, seeds))
        before = workspace.meter.spent
        found = searched(base, pipeline, vocabulary, pictures, prompt, settings, workspace, trials, seeds)
        reported(pipeline, trials, workspace, found, ATTACK)
        budget = workspace.meter.spent.less(before).worth // (2 * workspace.sampling["steps"])
        images_each = min(budget, settings["controls"])
        if images_each:
            compared(base, pipeline, vocabulary, prompt, settings, workspace, trials, images_each)
    return trials


def searched(
    base: Base,
    pipeline: DiffusionPipeline,
    vocabulary: Vocabulary,
    pictures: Pictures,
    prompt: str,
    settings: Mapping[str, Any],
    workspace: Workspace,
    trials: Trials,
    seeds: Sequence[int],
) -> list[tuple[Try, float]]:
    """What was drawn after each timestep, one of each search, with the chooser's probability of the target."""
    n, k = settings["searches"], settings["tokens"]
    generator = torch.Generator().manual_seed(workspace.seed)
    device = pictures.latents.device
    rows = nn.Parameter(torch.full((n, k, len(vocabulary.ids)), 1 / len(vocabulary.ids), device=device))
    optimiser = torch.optim.Adam([rows], lr=settings["learning_rate"], weight_decay=settings["weight_decay"])
    found: list[tuple[Try, float]] = []
    for time in timesteps(settings["times"]):
        for _ in range(settings["steps"]):
            tokens = drawn(rows, generator)
            rows.grad = gradient(base, pipeline, vocabulary, pictures, prompt, tokens, time, generator)
            optimiser.step()
            with torch.no_grad():
                rows.copy_(project(rows))
        best = vocabulary.ids[rows.detach().argmax(-1).cpu()]
        tries = [
            Try(f"t {time}", text, tuple(map(int, ids)), instance=row)
            for row, ids in enumerate(best)
            if (text := prefixed(base.text, ids.tolist(), prompt))
        ]
        own = [seeds[one.instance] for one in tries]
        if tries:
            scores = trials.add(ATTACK, SEARCH, tries, own, workspace.draw_tries(pipeline, tries, own))
            found += zip(tries, map(float, scores), strict=True)
    return found


def timesteps(count: int) -> list[int]:
    """So many of the timesteps 10, 30, ... 990, in order, evenly spread."""
    return [10 + 20 * (index * 50 // count) for index in range(min(count, 50))]


def gradient(
    base: Base,
    pipeline: DiffusionPipeline,
    vocabulary: Vocabulary,
    pictures: Pictures,
    prompt: str,
    tokens: Tensor,
    time: int,
    generator: torch.Generator,
) -> Tensor:
    """The straight-through gradient `[n, k, V]` of each row's loss, for places in the vocabulary `[n, k]`."""
    n, k = tokens.shape
    ids = []
    for tokenizer in base.text.tokenizers:
        asked = tokenizer(prompt, add_special_tokens=False)["input_ids"]
        ids.append(torch.tensor([padded(tokenizer, [*row, *asked]) for row in vocabulary.ids[tokens].tolist()]))
    learned = {
        str(number): table[tokens.to(table.device)].clone().requires_grad_()
        for number, table in enumerate(vocabulary.tables)
    }
    words = Words(prompt, tuple(ids), range(1, 1 + k))
    with frozen(pipeline.unet.parameters()), torch.enable_grad():
        conditions = with_words(base.text, words, learned, sizes_of(base, pictures.size, n))
        times = torch.full((n,), min(time, len(pictures.alphas) - 1))
        losses = pictures.losses(pipeline.unet, conditions, torch.arange(n), times, generator)
        parts = torch.autograd.grad(losses.sum(), list(learned.values()))
    return straight_through(parts, vocabulary.tables)


def reported(
    pipeline: DiffusionPipeline, trials: Trials, workspace: Workspace, found: Sequence[tuple[Try, float]], arm: str
) -> None:
    """Report the best of what was found on fresh seeds."""
    if found:
        best = max(found, key=lambda pair: pair[1])[0]
        workspace.reported(pipeline, trials, best, arm=arm)


def compared(
    base: Base,
    pipeline: DiffusionPipeline,
    vocabulary: Vocabulary,
    prompt: str,
    settings: Mapping[str, Any],
    workspace: Workspace,
    trials: Trials,
    images: int,
) -> None:
    """What as many images find with random tokens, the best of which is reported, and with other seeds alone."""
    generator = torch.Generator().manual_seed(workspace.seed + 1)
    seeds = [workspace.search[0] + TARGETS // 2 + k for k in range(images)]
    tries = []
    for _ in range(images):
        places = torch.randint(len(vocabulary.ids), (settings["tokens"],), generator=generator)
        ids = tuple(vocabulary.ids[places].tolist())
        tries.append(Try("random tokens", prefixed(base.text, ids, prompt) or prompt, ids))
    own = [workspace.search[k % len(workspace.search)] for k in range(images)]
    scores = trials.add(RANDOM, SEARCH, tries, own, workspace.draw_tries(pipeline, tries, own))
    reported(pipeline, trials, workspace, list(zip(tries, map(float, scores), strict=True)), RANDOM)
    plain = [Try("other seeds", prompt)] * images
    trials.add(SEEDS, SEARCH, plain, seeds, workspace.draw_tries(pipeline, plain, seeds))
