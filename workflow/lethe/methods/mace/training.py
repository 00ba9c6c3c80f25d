"""Per-concept LoRA training: a low-rank update that takes attention away from a concept's words inside its mask."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DiffusionPipeline, UNet2DConditionModel
from peft import LoraConfig
from peft.utils import get_peft_model_state_dict
from torch import Tensor
from transformers import CLIPTokenizer

from lethe.bases.denoising import Conditions, predicted
from lethe.bases.diffusion import encode_images, noised, target
from lethe.bases.pipeline import text_encoders
from lethe.bases.pixels import NORMALISATIONS
from lethe.bases.prompts import end_positions, phrase_positions
from lethe.bases.schedulers import training_schedule
from lethe.bases.text import TextEncoders, added_conditions, encode_prompts
from lethe.bases.unet import PROJECTIONS
from lethe.erasure.attention import Recorder, recorded_attention
from lethe.erasure.layers import basis
from lethe.erasure.tokens import states_at
from lethe.erasure.training import Budget, train
from lethe.inputs.templates import fill

SAME = 1e-6  # of the largest singular value: what is below is the rounding of float32 states


@dataclass(frozen=True)
class LoraSettings:
    """How a LoRA is trained; names as in the configuration (`lora` of a method of kind mace).

    `form` is `mace`, where both halves train, or `supl`, where the down half keeps off the anchor's tokens.
    """

    rank: int
    steps: int
    learning_rate: float
    batch: int
    use_pooler: bool
    squared_norm: bool
    timesteps: str
    pixels: str
    max_grad_norm: float
    preservation_weight: float
    seed: int
    form: str = "mace"


@dataclass(frozen=True)
class Examples:
    """A concept's images and prompts; training draws the ones apart from the others.

    Of k images: `latents` `[k, c, h, w]` scaled, `masks` bool `[k, H, W]`. Of m prompts: `states` `[m, window, d]`,
    `tokens` bool `[m, window]`, the positions that the loss looks at, and `added`, what SDXL's U-Net reads beside the
    states, `[m, ...]` each.
    """

    latents: Tensor
    masks: Tensor
    states: Tensor
    tokens: Tensor
    added: Mapping[str, Tensor]


@dataclass(frozen=True)
class Preserved:
    """Images of what a concept's prompts should mean, each with its prompt, which the U-Net should go on drawing.

    `latents` `[k, c, h, w]` scaled, `states` `[k, window, d]`, `added` `[k, ...]` each; `prediction` is what the U-Net
    predicts, `epsilon` or `v_prediction`.
    """

    latents: Tensor
    states: Tensor
    added: Mapping[str, Tensor]
    prediction: str


def concept_examples(
    pipeline: DiffusionPipeline,
    name: str,
    templates: Sequence[str],
    images: Sequence[np.ndarray],
    masks: Sequence[np.ndarray],
    settings: LoraSettings,
) -> Examples:
    """Encode a concept's images (uint8 `[H, W, 3]`), their masks (bool `[H, W]`) and its prompts, for `train_lora`.

    Raises ValueError for a name that does not fit into the text encoder's window.
    """
    text, prompts = text_encoders(pipeline), [fill(template, name) for template in templates]
    return Examples(
        encode_images(pipeline.vae, NORMALISATIONS[settings.pixels](images), seed=settings.seed),
        torch.from_numpy(np.stack(list(masks))),
        torch.cat(list(encode_prompts(text, prompts))),
        attended_tokens(text.tokenizer, templates, name, use_pooler=settings.use_pooler),
        added_conditions(text, prompts, images[0].shape[:2]),
    )


def preserved_examples(
    pipeline: DiffusionPipeline, prompts: Sequence[str], images: Sequence[np.ndarray], settings: LoraSettings
) -> Preserved:
    """Encode images to preserve (uint8 `[H, W, 3]`) and the prompt of each, for `train_lora`."""
    text, (_, prediction) = text_encoders(pipeline), training_schedule(pipeline.scheduler)
    return Preserved(
        encode_images(pipeline.vae, NORMALISATIONS[settings.pixels](images), seed=settings.seed),
        torch.cat(list(encode_prompts(text, prompts))),
        added_conditions(text, prompts, images[0].shape[:2]),
        prediction,
    )


def span_of_anchor(text: TextEncoders, templates: Sequence[str], anchor: str) -> Tensor:
    """An orthonormal basis `[d, r]`, float64, of the states of an anchor's own tokens in all prompts of `templates`.

    Singular values of at most `SAME` of the largest one do not count. Raises ValueError when the states span all d
    directions, so that nothing is free of them, and as `phrase_positions` does.
    """
    positions = [phrase_positions(text.tokenizer, template, anchor) for template in templates]
    places = [slice(where.start, where.stop) for where in positions]
    states = torch.cat(list(states_at(text, [fill(template, anchor) for template in templates], places)))
    span = basis(states.mT, relative=SAME)
    if span.shape[1] == len(span):
        raise ValueError(
            f"lora.form supl: the tokens of the anchor {anchor!r} in {len(templates)} prompts span all {len(span)} "
            "directions of the text, so that none is left to train in; lower templates.used, or take form mace"
        )
    return span


def kept_off(rows: Tensor, span: Tensor) -> Tensor:
    """Rows `[r, d]` without their part in `span` `[d, k]`, each as long as before; float64, rounded once."""
    span = span.cpu()
    before = rows.to(span)
    free = before - before @ span @ span.mT
    lengths, left = (torch.linalg.vector_norm(some, dim=1, keepdim=True) for some in (before, free))
    return (free * lengths / left).to(rows)


def timestep_weights(kind: str, n: int) -> Tensor:
    """Sampling weights of timesteps 0..n-1, `[n]` float64, summing to 1.

    `uniform`, or `importance`: sigmoid(0.05 (t - 200)) - sigmoid(0.05 (t - 400)). Source: MACE, Sec. 3.3 (CFIS), for
    n = 1000. Raises ValueError for another kind.
    """
    t = torch.arange(n, dtype=torch.float64)
    if kind == "uniform":
        weights = torch.ones_like(t)
    elif kind == "importance":
        weights = torch.sigmoid(0.05 * (t - 200)) - torch.sigmoid(0.05 * (t - 400))
    else:
        raise ValueError(f"timestep_weights: `kind` must be uniform or importance; got {kind!r}")
    return weights / weights.sum()


def attended_tokens(tokenizer: CLIPTokenizer, templates: Sequence[str], phrase: str, *, use_pooler: bool) -> Tensor:
    """Where the loss looks in the prompts that `templates` make of `phrase`: bool `[templates, window]`.

    The phrase's own tokens and, with `use_pooler`, the end-of-text token and all padding after it, whatever the padding
    is: end-of-text again in Stable Diffusion 1.x and the first encoder of SDXL, '!' in 2.x and the second of SDXL.
    """
    tokens = torch.zeros(len(templates), tokenizer.model_max_length, dtype=torch.bool)
    for row, template in enumerate(templates):
        tokens[row, list(phrase_positions(tokenizer, template, phrase))] = True
        if use_pooler:
            tokens[row, list(end_positions(tokenizer, fill(template, phrase)))] = True
    return tokens


def attention_loss(layers: Sequence[Tensor], masks: Tensor, *, squared: bool) -> Tensor:
    """Sum over layers of the Frobenius norm of the recorded probabilities inside the masks, mean over the batch.

    Args:
        layers: per layer `[b, heads, pixels, window]`, zero outside the chosen tokens.
        masks: bool `[b, h, w]`, of the images; resized to each layer by nearest neighbour.  squared: the paper's form
            (Eq. 4); the published code takes the plain norm.
    Raises: ValueError for a layer whose pixels are not the masks' sides halved, rounded up, some number of times.
    """
    total = masks.new_zeros((), dtype=torch.promote_types(layers[0].dtype, torch.float32))
    for probabilities in layers:
        probabilities = probabilities.to(total.dtype)  # in half precision a sum of squares overflows or vanishes
        size = _halved(*masks.shape[1:], pixels=probabilities.shape[2])
        inside = F.interpolate(masks[:, None].to(probabilities.dtype), size=size).flatten(1)
        kept = probabilities * inside[:, None, :, None]
        # Not the root of the sum of squares: its gradient is NaN where a small mask vanishes in a coarse layer.
        norm = kept.square().sum(dim=(1, 2, 3)) if squared else torch.linalg.vector_norm(kept, dim=(1, 2, 3))
        total = total + norm.mean()
    return total


def _halved(height: int, width: int, *, pixels: int) -> tuple[int, int]:
    """Sides of a layer of so many pixels: autoencoder and U-Net halve an image's sides, rounding up, level by level."""
    size = (height, width)
    while size[0] * size[1] > pixels:
        size = (-(-size[0] // 2), -(-size[1] // 2))
    if size[0] * size[1] != pixels:
        raise ValueError(f"attention_loss: a layer of {pixels} pixels is no halving of masks of {height} x {width}")
    return size


def train_lora(
    unet: UNet2DConditionModel,
    alphas: Tensor,
    concept: Examples,
    settings: LoraSettings,
    *,
    preserved: Preserved | None = None,
    untouched: Tensor | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Train a LoRA on `attn2.to_k/to_v` of `unet` (its own weights stay as they are) and take it off again.

    Args:
        alphas: cumulative products of the noise schedule, `[n]`.
        preserved: what the prior-preservation loss looks at, which counts `settings.preservation_weight` times beside
            the attention loss; without it there is none.
        untouched: an orthonormal basis `[d, r]` of text states that the LoRA does nothing to. Its down half is then
            drawn as ever, kept off them, and does not train.
    Returns: peft's state dict of the adapter on the CPU, float32, and the loss of each step.
    Raises: FloatingPointError as `lethe.erasure.training.train` does.

    Adapter and optimiser are float32 whatever the U-Net's dtype.

    Source: MACE, arXiv 2403.06135, Sec. 3.3, Eq. 4; optimiser settings as in the published code. Prior preservation:
    DreamBooth, arXiv 2208.12242, Sec. 3.2. Frozen down half: SuPLoRA, arXiv 2601.03305, after a summary of others.
    """
    weights = timestep_weights(settings.timesteps, len(alphas))
    with torch.random.fork_rng():
        torch.manual_seed(settings.seed)
        unet.add_adapter(
            LoraConfig(r=settings.rank, lora_alpha=settings.rank, target_modules=list(PROJECTIONS)), "concept"
        )
    unet.requires_grad_(False)
    halves = {name: p for name, p in unet.named_parameters() if "lora_" in name}
    for parameter in halves.values():
        parameter.data = parameter.data.float()
    if untouched is not None:
        for name in [name for name in halves if "lora_A" in name]:
            down = halves.pop(name)
            down.data = kept_off(down.data, untouched)
    trained = {name: parameter.requires_grad_(True) for name, parameter in halves.items()}
    budget = Budget(
        settings.steps,
        settings.learning_rate,
        max_grad_norm=settings.max_grad_norm,
        mend="lower lora.learning_rate of the method",
    )
    try:
        with recorded_attention(unet) as recorder:

            def loss_of_step(generator: torch.Generator) -> Tensor:
                loss = _attention_step(unet, recorder, alphas, concept, weights, settings, generator)
                if preserved is None:
                    return loss
                kept = _preservation_step(unet, recorder, alphas, preserved, settings.batch, generator)
                return loss + settings.preservation_weight * kept

            curve = train(trained, loss_of_step, budget, seed=settings.seed, dtype=unet.dtype, name="LoRA")
        state = {
            key: t.detach().cpu().clone() for key, t in get_peft_model_state_dict(unet, adapter_name="concept").items()
        }
    finally:
        unet.unload_lora()
    return state, curve


def _attention_step(
    unet: UNet2DConditionModel,
    recorder: Recorder,
    alphas: Tensor,
    concept: Examples,
    weights: Tensor,
    settings: LoraSettings,
    generator: torch.Generator,
) -> Tensor:
    images = torch.randint(len(concept.latents), (settings.batch,), generator=generator)
    prompts = torch.randint(len(concept.states), (settings.batch,), generator=generator)
    times = torch.multinomial(weights, settings.batch, replacement=True, generator=generator)
    clean = concept.latents[images]
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    recorder.layers.clear()
    recorder.tokens = concept.tokens[prompts].to(clean.device)
    asked = Conditions(concept.states, concept.added).rows(prompts)
    predicted(unet, noised(clean, noise, alphas, times), times.to(clean.device), asked)
    return attention_loss(recorder.layers, concept.masks[images].to(clean.device), squared=settings.squared_norm)


def _preservation_step(
    unet: UNet2DConditionModel,
    recorder: Recorder,
    alphas: Tensor,
    preserved: Preserved,
    batch: int,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of what the U-Net predicts for images of the anchor, at timesteps drawn all alike."""
    rows = torch.randint(len(preserved.latents), (batch,), generator=generator)
    times = torch.randint(len(alphas), (batch,), generator=generator)
    clean = preserved.latents[rows]
    noise = torch.randn(clean.shape, generator=generator).to(clean)
    recorder.tokens = None
    noisy = noised(clean, noise, alphas, times)
    asked = Conditions(preserved.states, preserved.added).rows(rows)
    found = predicted(unet, noisy, times.to(clean.device), asked)
    wanted = target(clean, noise, alphas, times, preserved.prediction)
    return F.mse_loss(found.float(), wanted.float())
