"""Guidance by further texts: what the U-Net reads and predicts in a pipeline's drawing loop, changed from outside.

A diffusers pipeline under classifier-free guidance has its U-Net read two branches in one call, latents twice with the
states of [no prompt, prompt], and moves on by e_0 + s (e_c - e_0). A method that guides inference lets the U-Net read
texts of its own in some branch, or in one more, and hands two predictions back.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from lethe.bases.pipeline import text_encoders
from lethe.bases.text import added_conditions, count_cut, encode_prompts

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline
    from transformers import CLIPTokenizer

Predictions = Callable[[Tensor], Tensor]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadText:
    """A text as a U-Net reads it: states `[1, window, d]`, and for SDXL the pooled projection `[1, p]`."""

    states: Tensor
    pooled: Tensor | None


def phrases_as_text(tokenizers: Sequence[CLIPTokenizer], phrases: Sequence[str], *, of: str) -> tuple[str, int]:
    """The phrases joined with ', ', and how many of them do not fit the window whole, so that they lose their effect.

    Warns, naming the method `of` that needs the text, where there are such.
    """
    beginnings = [", ".join(phrases[: k + 1]) for k in range(len(phrases))]
    cut = count_cut(tokenizers, beginnings)
    if cut:
        windows = "/".join(str(tokenizer.model_max_length) for tokenizer in tokenizers)
        log.warning(
            "%s: %d of %d phrases lie beyond the window of %s tokens of the base's text encoders, or across its end, "
            "and are cut: the edit does not guide away from them",
            of,
            cut,
            len(phrases),
            windows,
        )
    return ", ".join(phrases), cut


def read_text(pipeline: DiffusionPipeline, text: Any, *, of: str) -> ReadText:
    """Encode a text of an edit's settings with the pipeline's own encoders, cut to their window.

    Raises ValueError, naming the method `of` that made the edit, when it is no text, and as `encode_prompts` does.
    """
    if not isinstance(text, str):
        raise ValueError(f"{of}: `text` in the edit must be text; got {text!r}")
    encoders = text_encoders(pipeline)
    (states,) = encode_prompts(encoders, [text])
    return ReadText(states, added_conditions(encoders, [text], (0, 0)).get("text_embeds"))


def guide_drawing(
    pipeline: DiffusionPipeline,
    texts: Sequence[ReadText | None],
    begin: Callable[[], Predictions] | None = None,
    *,
    of: str,
) -> Callable[[], None]:
    """Let the pipeline's U-Net read `texts` while it draws; returns what takes that back, and nothing else changes.

    texts: for each branch what it reads instead, None for what the pipeline gives it; branches behind the second
    have latents, and SDXL's sizes, of the second.  begin: called when a drawing begins, it returns what makes the two
    branches `[2 n, c, h, w]` that the pipeline guides by of the predictions `[branches n, c, h, w]`, called once for
    each call of the U-Net; without it they are handed on.  of: the method, for messages.

    The U-Net that is called outside of the pipeline's loop is left alone. Inside it a pipeline raises ValueError when
    it draws without classifier-free guidance, since its one branch leaves nothing to guide.
    """

    def reading() -> AbstractContextManager[None]:
        if not pipeline.do_classifier_free_guidance:
            raise ValueError(
                f"{of}: the edit acts through guidance, and this drawing has none (its scale is "
                f"{pipeline.guidance_scale:g}); sample with a scale of guidance above 1"
            )
        return _reading(pipeline.unet, texts, begin() if begin else None)

    return while_drawing(pipeline, reading)


def while_drawing(pipeline: DiffusionPipeline, entered: Callable[[], AbstractContextManager]) -> Callable[[], None]:
    """Let what `entered` gives be open around the steps of each drawing; returns what takes that back."""
    before = vars(pipeline).get("progress_bar")
    bar = pipeline.progress_bar

    @contextmanager
    def drawing(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with entered(), bar(*args, **kwargs) as shown:
            yield shown

    def undo() -> None:
        del vars(pipeline)["progress_bar"]
        if before is not None:
            vars(pipeline)["progress_bar"] = before

    # The one method that pipelines enter before their first step and leave after the last, also when a step fails.
    vars(pipeline)["progress_bar"] = drawing
    return undo


@contextmanager
def _reading(unet: nn.Module, texts: Sequence[ReadText | None], predictions: Predictions | None) -> Iterator[None]:
    def reads(module: nn.Module, args: tuple, kwargs: dict[str, Any]) -> tuple[tuple, dict[str, Any]]:
        latents, *others = args
        added = dict(kwargs.get("added_cond_kwargs") or {})
        same = [None] * len(texts)
        for name, values in (("text_embeds", [text and text.pooled for text in texts]), ("time_ids", same)):
            if name in added:
                added[name] = _branched(added[name], values)
        states = _branched(kwargs["encoder_hidden_states"], [text and text.states for text in texts])
        changed = {"encoder_hidden_states": states} | ({"added_cond_kwargs": added} if added else {})
        return (_branched(latents, same), *others), kwargs | changed

    def predicts(module: nn.Module, args: tuple, made: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (predictions(made[0]), *made[1:])

    hooks = [unet.register_forward_pre_hook(reads, with_kwargs=True)]
    if predictions:
        hooks.append(unet.register_forward_hook(predicts))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _branched(given: Tensor, instead: Sequence[Tensor | None]) -> Tensor:
    """Rows `[branches n, ...]` of the rows `[2 n, ...]` that a pipeline gives, some branches replaced by a row."""
    halves = given.chunk(2)
    return torch.cat(
        [halves[min(k, 1)] if row is None else row.to(given).expand_as(halves[0]) for k, row in enumerate(instead)]
    )
