"""SPM, adapters of one dimension that act as far as a prompt is about their concept (arXiv 2312.16145).

Beside each layer W of the U-Net's transformers are vectors v_sig and v_reg: y = W x + v_sig (v_reg . x). They train by

    mean (e_M(x, c) - (e(x, n) - h (e(x, c) - e(x, n))))^2 + w mean (e_M(x, a) - e(x, a))^2

M is the U-Net with the adapter, e without M the U-Net alone, c the concept, n what it should mean, a anchors (latent
anchoring), x a picture that M draws of c part of the way. While images are drawn, adapter k acts times the share g_k of
the prompt (facilitated transport, Eq. 9 to 11): y = W x + sum_k g_k v_sig,k (v_reg,k . x).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from diffusers import Transformer2DModel, UNet2DConditionModel
from torch import Tensor, nn

from lethe.bases.base import Base
from lethe.bases.denoising import Conditions, conditions_of, denoised, predicted
from lethe.bases.devices import exact
from lethe.bases.pipeline import text_encoders
from lethe.bases.schedulers import build_scheduler, config_of, training_schedule
from lethe.bases.text import TextEncoders, encode_prompts
from lethe.edits.edit import Edit
from lethe.edits.guidance import GuidanceEdit
from lethe.edits.low_rank import LowRank
from lethe.edits.weights import WeightEdit
from lethe.erasure.branches import while_drawing
from lethe.erasure.student import Student
from lethe.erasure.training import Budget, train
from lethe.inputs.concepts import Concept

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline

TRANSPORTS = ("eq9", "published-code")
RESTARTS = 3


def erase(
    base: Base,
    concepts: Sequence[Concept],
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> Edit:
    """Put the adapters of all concepts together.

    `settings` are those of the manifest. `reads` holds `adapters`, what `train_adapter` made of each concept, in their
    order.
    Raises ValueError without concepts, and for adapters of another U-Net.
    """
    if not concepts:
        raise ValueError("spm: `concepts` must hold at least one concept; got none")
    layers = adapted_layers(base.pipeline.unet)
    parts: dict[str, list[Tensor]] = {f"{name}.{part}": [] for name in layers for part in ("down", "up")}
    for concept, adapter in zip(concepts, reads["adapters"], strict=True):
        if adapter.keys() != parts.keys():
            raise ValueError(f"spm: the adapter of {concept.name!r} does not fit: it is not of the base's layers")
        for name, tensor in adapter.items():
            parts[name].append(tensor)
    stacks = {name: LowRank(torch.cat(parts[f"{name}.down"]), torch.cat(parts[f"{name}.up"], dim=1)) for name in layers}
    if settings["edit_form"] == "weights":
        return WeightEdit(
            {
                f"{name}.weight": fused(layers[name].weight, stack, settings["transport"])
                for name, stack in stacks.items()
            }
        )
    tensors = {}
    for name, stack in stacks.items():
        tensors |= {f"{name}.down": stack.down, f"{name}.up": stack.up}
    told = [{"prompts": [concept.name], "factor": facilitation(concept, settings)} for concept in concepts]
    return GuidanceEdit("spm", {"transport": settings["transport"], "adapters": told}, tensors=tensors)


def published(concept: Concept, settings: Mapping[str, Any]) -> dict[str, float]:
    """How an adapter trains: as published for a concept's kind, where the settings do not say otherwise."""
    explicit = concept.kind == "explicit"
    found = dict(
        steps=15000 if explicit else 3000,
        negative_guidance=3.0 if explicit else 1.0,
        anchor_weight=100.0 if explicit else 1000.0,
    )
    return {key: value if settings[key] is None else settings[key] for key, value in found.items()}


def facilitation(concept: Concept, settings: Mapping[str, Any]) -> float:
    """What a prompt's share is multiplied by: as published for the kind, unless the settings say otherwise."""
    if settings["facilitation"] is not None:
        return float(settings["facilitation"])
    return 2.0 if concept.kind in ("style", "explicit") else 1.0


# Adapters


def adapted_layers(unet: UNet2DConditionModel) -> dict[str, nn.Linear | nn.Conv2d]:
    """The layers that have an adapter, by name: all linear ones and 1 x 1 convolutions inside of transformers."""
    return {
        f"{path}.{name}": layer
        for path, module in unet.named_modules()
        if isinstance(module, Transformer2DModel)
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1))
    }


@contextmanager
def adapted(
    unet: UNet2DConditionModel,
    adapters: Mapping[str, LowRank],
    gates: Callable[[int], Tensor] | None = None,
    *,
    transport: str = "eq9",
) -> Iterator[None]:
    """While the block runs, layers add what their adapters make of their input.

    adapters: K of each layer, by its name: down (v_reg) `[K, in]`, up (v_sig) `[out, K]`.  gates: of so many rows of a
    batch, how much each adapter acts, `[rows, K]`; without it each acts whole.  transport: `eq9`, or
    `published-code`, which multiplies down and up by the gates and sums both over adapters before it multiplies them.
    """

    def hook(name: str) -> Callable[..., Tensor]:
        pair = adapters[name]

        def add(module: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
            convolves = isinstance(module, nn.Conv2d)
            x = given[0].movedim(1, -1) if convolves else given[0]
            down, up = pair.down.to(x), pair.up.to(x)
            shares = None if gates is None else gates(len(x)).to(x)
            if transport == "eq9":
                inner = F.linear(x, down)
                inner = inner if shares is None else inner * _as_rows_of(shares, x)
                change = F.linear(inner, up)
            else:
                one, other = (down.sum(0)[None], up.sum(1)[None]) if shares is None else (shares @ down, shares @ up.T)
                change = (x * _as_rows_of(one, x)).sum(-1, keepdim=True) * _as_rows_of(other, x)
            return made + (change.movedim(-1, 1) if convolves else change)

        return add

    hooks = [unet.get_submodule(name).register_forward_hook(hook(name)) for name in adapters]
    try:
        yield
    finally:
        for one in hooks:
            one.remove()


def fused(weight: Tensor, adapters: LowRank, transport: str) -> Tensor:
    """A layer's weight `[out, in]` or `[out, in, 1, 1]` with its adapters added whole; in float64, rounded once."""
    before = exact(weight.detach())
    down, up = adapters.down.to(before), adapters.up.to(before)
    if transport != "eq9":
        down, up = down.sum(0, keepdim=True), up.sum(1, keepdim=True)
    return (before + (up @ down).reshape(weight.shape)).to(weight.dtype).cpu()


def _as_rows_of(values: Tensor, x: Tensor) -> Tensor:
    """Values `[n, k]` so that they go with `x` `[n, ..., k]`."""
    return values.reshape(len(values), *[1] * (x.dim() - 2), values.shape[1])


# Training


def train_adapter(
    base: Base,
    concept: Concept,
    settings: Mapping[str, Any],
    reads: Mapping[str, Any],
    workspace: Path | None = None,
) -> tuple[dict[str, Tensor], list[float]]:
    """Train a concept's adapter on the base as it is, which depends on no other concept.

    `settings` are those of the manifest, and `seed`. In `workspace` lies the checkpoint of a training cut off.
    Returns: float32 on the CPU, `NAME.down` `[1, in]` and `NAME.up` `[out, 1]` of each layer; the loss of each step.
    Raises ValueError for fewer than two `sampling_steps`, for anchors that are all the concept, and for a base that
    cannot be trained; FloatingPointError as `lethe.erasure.training.train` does.
    """
    if settings["sampling_steps"] < 2:
        raise ValueError("spm: sampling_steps must be 2 or more, as each training step draws at least one; raise it")
    pipeline, chosen = base.pipeline, published(concept, settings)
    unet, steps = pipeline.unet, settings["sampling_steps"]
    training_schedule(pipeline.scheduler)  # refuses a base that has none
    layers = adapted_layers(unet)
    values = {name: value.to(base.device) for name, value in beginnings(layers, settings["seed"]).items()}
    trained = {name: nn.Parameter(value) for name, value in values.items()}
    adapter = {name: LowRank(trained[f"{name}.down"], trained[f"{name}.up"]) for name in layers}
    frozen = Student(unet, ())

    def membrane(*args: Any, **kwargs: Any) -> Any:
        with adapted(unet, adapter):
            return frozen(*args, **kwargs)

    scheduler = build_scheduler(config_of(pipeline.scheduler), "ddim")
    scheduler.set_timesteps(steps)
    sides = unet.config.sample_size
    shape = (1, unet.config.in_channels, *((sides, sides) if isinstance(sides, int) else sides))
    surrogate = concept.anchor if settings["surrogate"] is None else settings["surrogate"]
    size = [side * pipeline.vae_scale_factor for side in shape[2:]]
    conditions = conditions_of(base.text, ["", concept.name, surrogate], size)
    empty, asked, neutral = (conditions.row(k) for k in range(3))
    texts, shares = settings["anchors"], None
    if texts:
        shares = anchor_shares(encode_prompts(base.text, texts), asked.states, settings["anchor_power"])
        if not shares.any():
            raise ValueError(f"spm: every one of anchors is {concept.name!r} itself, so none can be drawn; name others")

    def anchors(generator: torch.Generator) -> Conditions:
        count = settings["anchor_count"]
        if shares is None:
            states = random_states(asked.states, count, generator)
            drawn = Conditions(states, {key: value.expand(count, -1) for key, value in asked.added.items()})
        else:
            places = torch.multinomial(shares, count, replacement=True, generator=generator)
            drawn = conditions_of(base.text, [texts[place] for place in places.tolist()], size)
        if settings["anchor_batch"] == "paper":
            return drawn
        by_turns = [one for k in range(count) for one in (empty, drawn.row(k))]
        return by_turns[count].joined(*by_turns[count + 1 :])

    def loss_of_step(generator: torch.Generator) -> Tensor:
        drawn_steps = 1 + int(torch.randint(steps - 1, (), generator=generator))
        noise = torch.randn(shape, generator=generator).to(base.device, base.dtype)
        kept = anchors(generator)
        guidance = settings["start_guidance"]
        latents, time = denoised(membrane, scheduler, noise, empty.joined(asked), steps=drawn_steps, guidance=guidance)
        latents = scheduler.scale_model_input(latents, time)
        with torch.no_grad():
            start, away = (predicted(unet, latents, time, one).float() for one in (neutral, asked))
            same = predicted(unet, latents, time, kept).float()
        wanted = start - chosen["negative_guidance"] * (away - start)
        erasing = F.mse_loss(predicted(membrane, latents, time, asked).float(), wanted)
        anchoring = F.mse_loss(predicted(membrane, latents, time, kept).float(), same)
        return erasing + chosen["anchor_weight"] * anchoring

    warm_up = settings["warm_up"]
    budget = Budget(
        int(chosen["steps"]),
        settings["learning_rate"],
        max_grad_norm=None,
        warm_up=min(500, int(chosen["steps"]) // 6) if warm_up is None else warm_up,
        restarts=RESTARTS,
    )
    curve = train(
        trained,
        loss_of_step,
        budget,
        seed=settings["seed"],
        dtype=base.dtype,
        name=f"SPM of {concept.name}",
        checkpoint=None if workspace is None else workspace / "spm.safetensors",
    )
    return {name: value.detach().cpu() for name, value in trained.items()}, curve


def beginnings(layers: Mapping[str, nn.Linear | nn.Conv2d], seed: int) -> dict[str, Tensor]:
    """What an adapter begins as, float32: down uniform between -1 and 1 over the root of its width, up 0."""
    generator, found = torch.Generator().manual_seed(seed), {}
    for name, layer in layers.items():
        out, width = layer.weight.shape[:2]
        found[f"{name}.down"] = (2 * torch.rand(1, width, generator=generator) - 1) / math.sqrt(width)
        found[f"{name}.up"] = torch.zeros(out, 1)
    return found


def anchor_shares(texts: Iterable[Tensor], concept: Tensor, power: float) -> Tensor:
    """How likely texts are to be drawn, `[n]` float64 on the CPU: (1 - |cos|)^power to the concept, on whole states.

    texts: their states in batches, `[batch, window, d]` each.  concept: `[1, window, d]`. Shares do not sum to 1; all
    are 0 where every text is the concept.
    Source: arXiv 2312.16145, latent anchoring.
    """
    like = exact(concept).flatten(1)
    cosines = [torch.cosine_similarity(exact(batch).flatten(1), like).cpu() for batch in texts]
    far = (1 - torch.cat(cosines).abs()).clamp(min=0)
    return torch.where(far > 1e-12, far**power, 0)


def random_states(concept: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """States `[count, window, d]` in random directions, 0.8 to 1.2 times as long as the concept's `[1, window, d]`.

    Each is kept with probability 1 - cos to the concept's. Source: the published code of arXiv 2312.16145.
    """
    like = exact(concept).cpu()
    found: list[Tensor] = []
    while len(found) < count:
        direction = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        length, chance = 0.8 + 0.4 * torch.rand((), generator=generator), torch.rand((), generator=generator)
        if chance < 1 - torch.cosine_similarity(direction.flatten(), like.flatten(), dim=0):
            found.append(direction * length * like.norm() / direction.norm())
    return torch.cat(found).to(concept)


# Inference


def prompt_shares(text: TextEncoders, prompts: Sequence[str], adapters: Sequence[Mapping[str, Any]]) -> Tensor:
    """How much each adapter acts on each prompt, `[prompts, adapters]` float64 on the CPU (Eq. 10 and 11).

    The larger one of: the cosine of the prompt's states and those of the adapter's own prompt, and which share of the
    own prompt's tokens the prompt holds; of several own prompts the largest; times the adapter's `factor`.
    """
    own = list(dict.fromkeys(words for adapter in adapters for words in adapter["prompts"]))
    states = {}
    for part in (list(prompts), own):
        batches = [exact(batch).flatten(1).cpu() for batch in encode_prompts(text, part)]
        states |= dict(zip(part, torch.cat(batches), strict=True))
    tokens = {words: _tokens(text, words) for words in states}
    found = torch.zeros(len(prompts), len(adapters), dtype=torch.float64)
    for row, prompt in enumerate(prompts):
        for column, adapter in enumerate(adapters):
            scores = []
            for words in adapter["prompts"]:
                shared = len(tokens[prompt] & tokens[words]) / max(1, len(tokens[words]))
                cosine = torch.cosine_similarity(states[prompt], states[words], dim=0).item()
                scores.append(max(cosine, shared))
            found[row, column] = max(scores) * adapter["factor"]
    return found


def guide(
    pipeline: DiffusionPipeline, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> Callable[[], None]:
    """Let each adapter of an edit act as far as the prompt is about its concept; returns what takes that back.

    A prompt's share counts in both branches of guidance and in all steps; of SDXL's two prompts the first one counts.
    Raises ValueError for settings and tensors that no edit of this method has, or that do not fit the U-Net; a pipeline
    so guided raises it when it draws from embeddings in place of a prompt.
    """
    # What a file was read into lies at any address, and products round by it.
    own = {name: tensor.clone() for name, tensor in tensors.items()}
    adapters = _checked(pipeline.unet, settings, own)
    told, encode = {}, pipeline.encode_prompt
    before = vars(pipeline).get("encode_prompt")
    parameters = inspect.signature(encode)

    def encoding(*args: Any, **kwargs: Any) -> Any:
        given = parameters.bind(*args, **kwargs)
        given.apply_defaults()
        told.update(prompt=given.arguments["prompt"], images=given.arguments["num_images_per_prompt"])
        return encode(*args, **kwargs)

    def acting() -> AbstractContextManager[None]:
        if told.get("prompt") is None:
            raise ValueError(
                "spm: the edit acts by what a prompt is about, and this drawing has embeddings in its place; give it "
                "the prompt"
            )
        prompts = [told["prompt"]] if isinstance(told["prompt"], str) else list(told["prompt"])
        shares = prompt_shares(text_encoders(pipeline), prompts, settings["adapters"])
        shares = shares.repeat_interleave(told["images"], dim=0)
        shares = shares.to(pipeline._execution_device, pipeline.unet.dtype)  # once, and not for each layer of each step

        def gates(rows: int) -> Tensor:
            return shares.repeat(rows // len(shares), 1)

        return adapted(pipeline.unet, adapters, gates, transport=settings["transport"])

    vars(pipeline)["encode_prompt"] = encoding
    stop = while_drawing(pipeline, acting)

    def undo() -> None:
        stop()
        del vars(pipeline)["encode_prompt"]
        if before is not None:
            vars(pipeline)["encode_prompt"] = before

    return undo


def _checked(
    unet: UNet2DConditionModel, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> dict[str, LowRank]:
    """The adapters of an edit by layer. Raises ValueError where its settings or tensors are not what `erase` writes."""
    if settings.get("transport") not in TRANSPORTS:
        raise ValueError(
            f"spm: `transport` in the edit must be one of {', '.join(TRANSPORTS)}; got {settings.get('transport')!r}"
        )
    told = settings.get("adapters")
    for one in told if isinstance(told, list) and told else [None]:
        prompts, factor = (one.get("prompts"), one.get("factor")) if isinstance(one, dict) else (None, None)
        named = isinstance(prompts, list) and prompts and all(isinstance(words, str) for words in prompts)
        if not named or not isinstance(factor, int | float) or not math.isfinite(factor) or factor < 0:
            raise ValueError(
                f"spm: `adapters` in the edit must be a list of prompts and a factor, 0 or more, of each; got {one!r}"
            )
    layers = adapted_layers(unet)
    if set(tensors) != {f"{name}.{part}" for name in layers for part in ("down", "up")}:
        raise ValueError("spm: the edit does not fit: its adapters are not of the layers that the base has")
    found = {}
    for name, layer in layers.items():
        (out, width), count = layer.weight.shape[:2], len(told)
        down, up = tensors[f"{name}.down"], tensors[f"{name}.up"]
        if down.shape != (count, width) or up.shape != (out, count):
            raise ValueError(
                f"spm: the edit does not fit: the adapters of {name} must be {[count, width]} and {[out, count]}; they "
                f"are {list(down.shape)} and {list(up.shape)}"
            )
        found[name] = LowRank(down.to(unet.device), up.to(unet.device))
    return found


def _tokens(text: TextEncoders, words: str) -> set[int]:
    return set(text.tokenizer(words, add_special_tokens=False, truncation=True, verbose=False)["input_ids"])
