"""Second moments of text embeddings: all that refinement and fusion need to know of a concept or a prior."""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from lethe.bases.devices import CPU, exact
from lethe.bases.prompts import aligned_positions
from lethe.bases.text import TextEncoders, check_tokens, encode_prompts
from lethe.files.tensors import read_tensors, write_tensors
from lethe.inputs.templates import fill

log = logging.getLogger(__name__)

PART = 4096  # distinct texts of a part: a whole number of batches, minutes of a CPU
BLOCK = 192  # columns of a moment that are multiplied at once: narrower products are slower, wider ones spare less


@dataclass(frozen=True)
class Moment:
    """A sum of outer products, `matrix` `[d, d]` float64, over `tokens` embeddings."""

    matrix: Tensor
    tokens: int


@dataclass(frozen=True)
class ConceptMoments:
    """A concept's share in the closed form; all `[d, d]` float64.

    `source` F = sum f f^T and `cross` C = sum g f^T over aligned words of prompts with the phrase (f) and with its
    anchor (g); `fusion` G = sum e e^T over all tokens of the prompts with the phrase.
    """

    source: Tensor
    cross: Tensor
    fusion: Tensor


def second_moment(batches: Iterable[Tensor], counts: Sequence[int] | None = None) -> Moment:
    """Sum e e^T over every embedding of `batches` (`[..., d]`, any floating dtype), accumulated in float64.

    With `counts`, batches are `[n, ..., d]`, and each of their entries, over all batches in turn, counts that often.
    The sum is symmetric to the last bit, and only one half of it is multiplied out.
    Raises ValueError when there is no embedding, or `counts` has another number of entries than the batches.
    """
    total, tokens, seen = None, 0, 0
    for batch in batches:
        rows = exact(batch.reshape(-1, batch.shape[-1]))
        weighted, each = rows, len(rows) // max(1, len(batch))
        if counts is None:
            tokens += len(rows)
        else:
            share = rows.new_tensor(counts[seen : seen + len(batch)])
            seen += len(batch)
            if len(share) < len(batch):
                break
            tokens += each * int(share.sum())
            weighted = rows * share.repeat_interleave(each)[:, None]
        total = rows.new_zeros(rows.shape[1], rows.shape[1]) if total is None else total
        for start in range(0, len(total), BLOCK):
            stop = start + BLOCK
            total[start:stop, :stop].addmm_(weighted[:, start:stop].mT, rows[:, :stop])
    if counts is not None and seen != len(counts):
        raise ValueError(f"second_moment: `counts` must have one number for each entry; got {len(counts)} for {seen}")
    if total is None or tokens == 0:
        raise ValueError("second_moment: `batches` must hold at least one embedding; got none")
    below = total.tril(-1)
    return Moment(total.tril_().add_(below.mT), tokens)


def moment_in_parts(
    encode: Callable[[Sequence[str]], Iterable[Tensor]],
    texts: Iterable[str],
    folder: Path,
    *,
    made_by: Mapping[str, object],
    size: int = PART,
) -> Moment:
    """The second moment of all tokens of `texts`, computed in parts that outlast the process.

    Each distinct text is encoded once and counts as often as it occurs; their order does not matter. A part is the
    moment of `size` of them, sorted, and lies in `folder` as soon as it is whole. When the same call is made again,
    parts found there are taken up, and the result is the same to the last bit. Whatever else is in `folder` is
    removed; the folder itself is left to the caller.

    Args:
        encode: texts to embeddings, batches `[n, window, d]` in the order of the texts.
        made_by: what a part depends on besides its texts (JSON values); it is part of the part's name.
    Raises: ValueError when there is no text, or `folder` is a link to elsewhere.
    """
    counted = sorted(Counter(texts).items())
    if Path(folder).is_symlink():
        raise ValueError(f"{folder}: it is a link, and what is in it would be removed; remove the link")
    if not counted:
        raise ValueError("moment_in_parts: `texts` must hold at least one text; got none")
    parts = {}
    for start in range(0, len(counted), size):
        part = counted[start : start + size]
        content = json.dumps([made_by, part], sort_keys=True)
        parts[folder / f"{start:08d}-{hashlib.sha256(content.encode()).hexdigest()[:32]}.safetensors"] = part
    folder.mkdir(parents=True, exist_ok=True)
    for path in set(folder.iterdir()) - set(parts):
        path.unlink()
    found = sum(path.exists() for path in parts)
    log.info("%d distinct texts in %d parts, %d of them found in %s", len(counted), len(parts), found, folder)
    matrix, tokens, done = 0, 0, 0
    for path, part in parts.items():
        if not path.exists():
            save_moment(path, second_moment(encode([text for text, _ in part]), [count for _, count in part]), {})
        moment = load_moment(path)
        matrix, tokens, done = matrix + moment.matrix, tokens + moment.tokens, done + len(part)
        log.info("%d of %d texts", done, len(counted))
    return Moment(matrix, tokens)


def concept_moments(text: TextEncoders, phrase: str, anchor: str, templates: Sequence[str]) -> ConceptMoments:
    """The moments of one concept over prompts made of `templates`, on the CPU, where those of a file are too.

    Source: MACE, arXiv 2403.06135, Eq. 1-2 and 6.

    Raises ValueError when a phrase does not fit into the window, or a base's tokenizers cut a prompt differently.
    """
    prompts = [fill(template, phrase) for template in templates]
    anchors = [fill(template, anchor) for template in templates]
    check_tokens(text, [*prompts, *anchors])
    with_phrase = torch.cat(list(encode_prompts(text, prompts)))
    with_anchor = torch.cat(list(encode_prompts(text, anchors)))
    places = [aligned_positions(text.tokenizer, template, phrase, anchor) for template in templates]
    moments = aligned_moments(with_phrase, with_anchor, places)
    return ConceptMoments(*(matrix.to(CPU) for matrix in vars(moments).values()))


def aligned_moments(
    phrases: Tensor, anchors: Tensor, places: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> ConceptMoments:
    """The moments of one concept from the states of its prompts and of their anchors, `[prompts, window, d]`.

    `places` are those of f and of g in each prompt, equally many. Nearly every token is an f, so F is G less the sum
    over the few that are not, and one half of a product makes both.
    """
    aligned, wanted = zip(*places, strict=True)
    others = [[place for place in range(phrases.shape[1]) if place not in at] for at in aligned]

    def states(of: Tensor, chosen: Sequence[Sequence[int]]) -> Tensor:
        return exact(torch.cat([prompt[[*at]] for prompt, at in zip(of, chosen, strict=True)]))

    f, g, rest = states(phrases, aligned), states(anchors, wanted), states(phrases, others)
    fusion = second_moment([phrases]).matrix
    return ConceptMoments(fusion - rest.mT @ rest, g.mT @ f, fusion)


def total_moments(moments: Iterable[ConceptMoments]) -> ConceptMoments:
    """The sum of the moments of several concepts, one of them in memory at a time.

    The last bits depend on the order of addition: give the concepts in a fixed one. Raises ValueError when there is
    none.
    """
    total = None
    for concept in moments:
        if total is None:
            total = ConceptMoments(*(t.to(torch.float64, copy=True) for t in vars(concept).values()))
            continue
        for sum_, part in zip(vars(total).values(), vars(concept).values(), strict=True):
            sum_.add_(part)
    if total is None:
        raise ValueError("total_moments: `moments` must hold at least one concept; got none")
    return total


def save_concept_moments(path: Path, moments: ConceptMoments, record: dict) -> None:
    """Write the three matrices with `record` in the header; raises ValueError when one is not finite."""
    write_tensors(path, vars(moments), record)


def load_concept_moments(path: Path) -> ConceptMoments:
    """Read what `save_concept_moments` wrote; raises ValueError, naming the file, when it holds anything else."""
    tensors, _ = read_tensors(path)
    return ConceptMoments(**_matrices(path, tensors, ("source", "cross", "fusion")))


def save_moment(path: Path, moment: Moment, record: dict) -> None:
    """Write a prior with `record` and its token count in the header; raises ValueError when it is not finite."""
    write_tensors(path, {"moment": moment.matrix}, record | {"tokens": moment.tokens})


def load_moment(path: Path) -> Moment:
    """Read what `save_moment` wrote; raises ValueError, naming the file, when it holds anything else."""
    tensors, record = read_tensors(path)
    tokens = record.get("tokens")
    if type(tokens) is not int or tokens < 1:
        raise ValueError(f"{path}: this is no prior; its header does not say over how many tokens it sums")
    return Moment(_matrices(path, tensors, ("moment",))["moment"], tokens)


def _matrices(path: Path, tensors: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """The tensors, if they are those of `names` and square matrices of one size in float64."""
    sizes = {tuple(tensor.shape) for tensor in tensors.values()}
    width = max((len(tensor) for tensor in tensors.values() if tensor.dim()), default=0)
    kinds = {tensor.dtype for tensor in tensors.values()}
    if set(tensors) != set(names) or sizes != {(width, width)} or kinds != {torch.float64}:
        held = ", ".join(f"{name} {[*tensor.shape]} {tensor.dtype}" for name, tensor in tensors.items()) or "nothing"
        wanted = "square matrices of one size in float64"
        raise ValueError(f"{path}: it must hold {', '.join(names)}, {wanted}; it holds {held}; make it again")
    return tensors
