"""Names of a U-Net's parameters in single-file checkpoints of Stable Diffusion 1.x, 2.x and XL, by those of diffusers.

The files hold the module tree of the first code: `input_blocks`, `middle_block` and `output_blocks` count convolution,
layers and changes of size in one row, where diffusers has blocks of layers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PREFIX = "model.diffusion_model."  # of a U-Net's tensors in a checkpoint
_WHOLE = {
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def original_name(name: str, config: Mapping[str, Any]) -> str:
    """The name, without `PREFIX`, of a parameter or a module of a U-Net with this configuration (its config.json).

    Raises ValueError, naming it, when such files have no place for it.
    """
    known = next((whole for whole in _WHOLE if f"{name}.".startswith(f"{whole}.")), None)
    if known is not None:
        return _WHOLE[known] + name.removeprefix(known)
    layers = config.get("layers_per_block")
    steps = layers + 1 if isinstance(layers, int) else 0  # a level's layers and its change of size
    where: str | None = None
    match name.split("."):
        case _ if not steps:
            pass
        case ["down_blocks", level, "downsamplers", "0", "conv", *rest]:
            where, rest = f"input_blocks.{(int(level) + 1) * steps}.0", ["op", *rest]
        case ["down_blocks", level, ("resnets" | "attentions") as kind, layer, *rest]:
            where = f"input_blocks.{1 + int(level) * steps + int(layer)}.{int(kind == 'attentions')}"
            rest = _inner(kind, rest)
        case ["mid_block", "attentions", "0", *rest]:
            where = "middle_block.1"
        case ["mid_block", "resnets", ("0" | "1") as layer, *rest]:
            where, rest = f"middle_block.{2 * int(layer)}", _inner("resnets", rest)
        case ["up_blocks", level, "upsamplers", "0", "conv", *rest]:
            attends = "CrossAttn" in config["up_block_types"][int(level)]
            where, rest = f"output_blocks.{(int(level) + 1) * steps - 1}.{1 + attends}", ["conv", *rest]
        case ["up_blocks", level, ("resnets" | "attentions") as kind, layer, *rest]:
            where = f"output_blocks.{int(level) * steps + int(layer)}.{int(kind == 'attentions')}"
            rest = _inner(kind, rest)
    if where is None or not rest:
        raise ValueError(f"{name} of the U-Net has no name in single-file checkpoints of Stable Diffusion")
    return ".".join([where, *rest])


def _inner(kind: str, rest: list[str]) -> list[str]:
    """What follows the place of a layer; attention keeps its names, nothing stands for what residual layers lack."""
    if kind == "attentions":
        return rest
    return [_RESNET[rest[0]], *rest[1:]] if rest and rest[0] in _RESNET else []
