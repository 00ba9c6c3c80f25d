"""Prompts in which some tokens have embeddings of their own, as a U-Net reads them; gradients reach these alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lethe.bases.denoising import Conditions
from lethe.bases.prompts import phrase_positions
from lethe.bases.text import TextEncoders, check_tokens, joined_states
from lethe.inputs.templates import fill


@dataclass(frozen=True)
class Words:
    """A prompt with words to replace in it, for each encoder: `ids` `[n, window]` each, and the words' place in it."""

    prompt: str
    ids: tuple[Tensor, ...]
    place: range


def words_in(
    text: TextEncoders, template: str, phrase: str, tokens: int | None, *, by: str, mend: str = "shorten the prompt"
) -> Words:
    """A prompt with a phrase; with so many tokens of their own in the phrase's place, if any.

    Those have the id of the phrase's first token: what stands there is put in later (`with_words`). Raises ValueError
    for a prompt that does not fit into the window, naming the method that asks (`by`) and how to mend it, or that the
    base's tokenizers count differently.
    """
    prompt = fill(template, phrase)
    check_tokens(text, [prompt])
    place = phrase_positions(text.tokenizer, template, phrase)
    ids = []
    for tokenizer in text.tokenizers:
        found, window = tokenizer(prompt, truncation=True)["input_ids"], tokenizer.model_max_length
        if tokens is not None:
            found = [*found[: place.start], *[found[place.start]] * tokens, *found[place.stop :]]
        if len(found) > window:
            raise ValueError(
                f"{by}: {prompt!r} needs {len(found)} tokens, {tokens} of them in the name's place; the text encoder "
                f"reads {window}: {mend}"
            )
        ids.append(torch.tensor([found + [tokenizer.pad_token_id] * (window - len(found))]))
    length = len(place) if tokens is None else tokens
    return Words(prompt, tuple(ids), range(place.start, place.start + length))


def with_words(
    text: TextEncoders, words: Words, learned: Mapping[str, Tensor], added: Mapping[str, Tensor]
) -> Conditions:
    """What the U-Net reads of a prompt with learned embeddings in it, `[tokens, d]` of each encoder by its number.

    Of n rows of ids they may be `[n, tokens, d]`. Gradients reach the embeddings, and nothing else. `added` is what
    SDXL reads of the prompt without them, of which only sizes stay.
    """
    outputs = []
    for number, (encoder, ids) in enumerate(zip(text.encoders, words.ids, strict=True)):
        embedding = learned[str(number)]

        def put(module: nn.Module, given: tuple, made: Tensor, embedding: Tensor = embedding) -> Tensor:
            before, behind = made[:, : words.place.start], made[:, words.place.stop :]
            own = embedding if embedding.dim() == 3 else embedding[None]
            return torch.cat([before, own.to(made).expand(len(made), -1, -1), behind], dim=1)

        frozen = {name: parameter.detach() for name, parameter in encoder.named_parameters()}
        hook = encoder.get_input_embeddings().register_forward_hook(put)
        try:
            options = dict(output_hidden_states=len(text.encoders) > 1)
            outputs.append(functional_call(encoder, frozen, (ids.to(encoder.device),), options))
        finally:
            hook.remove()
    pooled = {"text_embeds": outputs[-1].text_embeds} if added else {}
    return Conditions(joined_states(outputs), {**added, **pooled})


@contextmanager
def new_word(text: TextEncoders, token: int, learned: Sequence[Tensor]) -> Iterator[None]:
    """While the block runs, a token means `learned`, `[d]` of each encoder, wherever it stands in a prompt.

    No weight changes, so whatever encodes prompts with these encoders meets the word, and nothing else is touched.
    """

    def put(embedding: Tensor) -> object:
        def replaced(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
            return torch.where((given[0] == token)[..., None], embedding.to(made), made)

        return replaced

    hooks = [
        encoder.get_input_embeddings().register_forward_hook(put(embedding))
        for encoder, embedding in zip(text.encoders, learned, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
