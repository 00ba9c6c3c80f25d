"""Prompts to what a U-Net reads of them, streamed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lethe.finite import mend_of, require_finite

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer


@dataclass(frozen=True)
class TextEncoders:
    """The text side of a base: tokenizers and encoders in pairs, in the order in which their states are joined.

    Stable Diffusion 1.x and 2.x have one pair, SDXL two; the second encoder of SDXL has a projection.
    """

    tokenizers: tuple[CLIPTokenizer, ...]
    encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]

    @property
    def tokenizer(self) -> CLIPTokenizer:
        """The tokenizer that token positions are counted with (`check_tokens` compares it with the others)."""
        return self.tokenizers[0]


def encode_prompts(text: TextEncoders, prompts: Sequence[str], *, batch: int = 64) -> Iterator[Tensor]:
    """Yield the text states of `prompts`, `[<= batch, window, d]`, on the encoders' device and in their dtype.

    These are the states that the family's own pipeline conditions on, every position up to the window, padding
    included: the last hidden states of one encoder, or the penultimate hidden states of two side by side.
    Raises ValueError, naming the prompt, when a state is not finite.
    """
    for start, outputs in zip(range(0, len(prompts), batch), _outputs(text, prompts, batch), strict=True):
        joined = joined_states(outputs)
        named = [repr(prompt) for prompt in prompts[start : start + batch]]
        require_finite(joined, of="states of prompts", names=named, mend=mend_of(joined.dtype))
        yield joined


def joined_states(outputs: Sequence[Any]) -> Tensor:
    """The states `[n, window, d]` that a U-Net reads, of what each of a base's encoders returns.

    Two encoders must have been asked for hidden states.
    """
    states = [outputs[0].last_hidden_state] if len(outputs) == 1 else [o.hidden_states[-2] for o in outputs]
    return torch.cat(states, dim=-1)


def added_conditions(
    text: TextEncoders, prompts: Sequence[str], size: tuple[int, int], *, batch: int = 64
) -> dict[str, Tensor]:
    """What the U-Net reads beside the states (`added_cond_kwargs`): tensors with a row for each prompt.

    For SDXL the pooled projections `text_embeds` `[n, p]`, and `time_ids` `[n, 6]` of images of `size` (height, width
    in pixels) that are neither resized nor cropped: original size, corner of the crop, target size. Empty for bases
    with one text encoder. Raises ValueError as `encode_prompts` does.
    """
    if len(text.encoders) == 1:
        return {}
    pooled = torch.cat([outputs[-1].text_embeds for outputs in _outputs(text, prompts, batch)])
    require_finite(pooled, of="pooled states", names=[repr(prompt) for prompt in prompts], mend=mend_of(pooled.dtype))
    return {"text_embeds": pooled, "time_ids": pooled.new_tensor([*size, 0, 0, *size]).repeat(len(pooled), 1)}


def count_cut(tokenizers: Sequence[CLIPTokenizer], prompts: Sequence[str]) -> int:
    """How many of the prompts some tokenizer cuts, since they are longer than its window."""
    lengths = [[len(ids) for ids in t(list(prompts), verbose=False)["input_ids"]] for t in tokenizers]
    windows = [tokenizer.model_max_length for tokenizer in tokenizers]
    return sum(any(n > window for n, window in zip(row, windows, strict=True)) for row in zip(*lengths, strict=True))


def check_tokens(text: TextEncoders, prompts: Sequence[str]) -> None:
    """Raise ValueError, naming the prompt, where a base's tokenizers count its tokens differently.

    SDXL's two share their vocabulary, but the second pads with '!' and so never joins it with other signs: one counts
    '?!' as one token, the other as two. No position is then the same word for both encoders.
    """
    for prompt in prompts:
        counts = [len(tokenizer(prompt, verbose=False)["input_ids"]) for tokenizer in text.tokenizers]
        if len(set(counts)) > 1:
            raise ValueError(
                f"check_tokens: {prompt!r} is {' or '.join(map(str, counts))} tokens, depending on which of the base's "
                "tokenizers counts; write it without '!'"
            )


@torch.no_grad()
def _outputs(text: TextEncoders, prompts: Sequence[str], batch: int) -> Iterator[list]:
    """What each encoder makes of each batch of prompts, padded and cut to the window."""
    for start in range(0, len(prompts), batch):
        part = list(prompts[start : start + batch])
        outputs = []
        for tokenizer, encoder in zip(text.tokenizers, text.encoders, strict=True):
            ids = tokenizer(part, padding="max_length", truncation=True, return_tensors="pt").input_ids
            outputs.append(encoder(ids.to(encoder.device), output_hidden_states=len(text.encoders) > 1))
        yield outputs
