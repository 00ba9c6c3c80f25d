"""How ComfyUI and AUTOMATIC1111's web UI find the modules that a LoRA file is about, written from their rules.

Both hold a U-Net by its original names. A file's keys are `<name>.<part>`; which names are found differs between the
two. Parts are read alike: `lora_up`, `lora_down` and `alpha` (a scale of alpha over rank), or `diff` and `diff_b`,
which are added as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor

Weights = dict[str, Tensor]
SUFFIXES = {
    "norm1": "in_layers_0",
    "conv1": "in_layers_2",
    "time_emb_proj": "emb_layers_1",
    "norm2": "out_layers_0",
    "conv2": "out_layers_3",
    "conv_shortcut": "skip_connection",
}


def in_comfyui(unet: Weights, file: Weights, diffusers_names: Mapping[str, str]) -> Weights:
    """The U-Net with the file in it. Names are `lora_unet_` and a module's own or diffusers' path, with underscores.

    diffusers_names: the original name of each parameter by that of diffusers. Raises AssertionError on keys that are
    not found.
    """
    known = {}
    for name in unet:
        known[name.rpartition(".")[0].replace(".", "_")] = name.rpartition(".")[0]
    for name, original in diffusers_names.items():
        known[name.rpartition(".")[0].replace(".", "_")] = original.rpartition(".")[0]
    named = {f"lora_unet_{name}": module for name, module in known.items()}
    return _patched(unet, file, named.__getitem__)


def in_a1111(unet: Weights, file: Weights) -> Weights:
    """The U-Net with the file in it: diffusers' paths are taken apart, by two layers a block; else names are its own.

    Raises AssertionError on keys that are not found, and on a module without `diff` or `lora_down`.
    """
    known = {f"diffusion_model_{name.rpartition('.')[0].replace('.', '_')}": name.rpartition(".")[0] for name in unet}

    def module(name: str) -> str:
        by_rule = _by_rule(name.removeprefix("lora_unet_"))
        return known[by_rule] if by_rule in known else known[name.replace("lora_unet", "diffusion_model")]

    for name in {key.partition(".")[0] for key in file}:
        assert f"{name}.diff" in file or f"{name}.lora_down.weight" in file, f"no kind of network has {name}"
    return _patched(unet, file, module)


def _by_rule(path: str) -> str:
    if found := re.match(r"time_embedding_linear_(\d)", path):
        return f"diffusion_model_time_embed_{2 * int(found[1]) - 2}"
    for whole, name in (("conv_in", "input_blocks_0_0"), ("conv_out", "out_2")):
        if path.startswith(whole):
            return f"diffusion_model_{name}{path.removeprefix(whole)}"
    if found := re.match(r"(down|up)_blocks_(\d+)_(attentions|resnets)_(\d+)_(.+)", path):
        side, level, kind, layer, rest = found.groups()
        place = 3 * int(level) + int(layer) + (side == "down")
        rest = SUFFIXES.get(rest, rest) if kind == "resnets" else rest
        return (
            f"diffusion_model_{'in' if side == 'down' else 'out'}put_blocks_{place}_{int(kind == 'attentions')}_{rest}"
        )
    if found := re.match(r"mid_block_(attentions|resnets)_(\d+)_(.+)", path):
        kind, layer, rest = found.groups()
        rest = SUFFIXES.get(rest, rest) if kind == "resnets" else rest
        return f"diffusion_model_middle_block_{1 if kind == 'attentions' else 2 * int(layer)}_{rest}"
    if found := re.match(r"down_blocks_(\d+)_downsamplers_0_conv", path):
        return f"diffusion_model_input_blocks_{3 + 3 * int(found[1])}_0_op"
    if found := re.match(r"up_blocks_(\d+)_upsamplers_0_conv", path):
        return f"diffusion_model_output_blocks_{2 + 3 * int(found[1])}_{2 if int(found[1]) else 1}_conv"
    return path


def _patched(unet: Weights, file: Weights, module_of: object) -> Weights:
    patched, parts = {name: weight.clone() for name, weight in unet.items()}, {}
    for key, tensor in file.items():
        name, _, part = key.partition(".")
        try:
            parts.setdefault(module_of(name), {})[part] = tensor
        except KeyError:
            raise AssertionError(f"nothing is found under {key}") from None
    for module, found in parts.items():
        if "diff_b" in found:
            patched[f"{module}.bias"] += found.pop("diff_b").to(patched[f"{module}.bias"])
        weight = patched[f"{module}.weight"]
        if "diff" in found:
            weight += found.pop("diff").to(weight)
        else:
            up, down = found.pop("lora_up.weight"), found.pop("lora_down.weight")
            change = up.double() @ down.double() * found.pop("alpha").item() / len(down)
            weight.copy_((weight.double() + change).to(weight.dtype))
        assert not found, f"{module} has more: {found.keys()}"
        assert torch.isfinite(weight).all()
    return patched
