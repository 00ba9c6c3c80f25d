"""Names of parameters in single-file checkpoints: those that diffusers' own reader of such files takes for the same."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import save_file

from edited import layered
from lethe.bases.original_names import PREFIX, original_name

SD = dict(block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=768, attention_head_dim=8)
XL = dict(
    block_out_channels=(320, 640, 1280),
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    transformer_layers_per_block=(1, 2, 10),
    attention_head_dim=(5, 10, 20),
    cross_attention_dim=2048,
    use_linear_projection=True,
    addition_embed_type="text_time",
    addition_time_embed_dim=256,
    projection_class_embeddings_input_dim=2816,
)


@pytest.mark.parametrize("layers", [1, 2])
def test_diffusers_reads_every_parameter_under_its_name(base_folder: Path, tmp_path: Path, layers: int) -> None:
    base = base_folder if layers == 1 else layered(base_folder, tmp_path / "base")
    unet = UNet2DConditionModel.from_pretrained(base / "unet")
    names = {name: PREFIX + original_name(name, unet.config) for name in unet.state_dict()}
    assert len(set(names.values())) == len(names)
    save_file({names[name]: tensor for name, tensor in unet.state_dict().items()}, tmp_path / "file.safetensors")
    read = UNet2DConditionModel.from_single_file(
        str(tmp_path / "file.safetensors"), config=str(base), subfolder="unet", local_files_only=True
    )
    for name, tensor in read.state_dict().items():
        assert torch.equal(tensor, unet.state_dict()[name]), name


@pytest.mark.parametrize(
    ("config", "count", "some"),
    [
        (
            SD,
            686,
            {
                "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k.weight": (
                    "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight"
                ),
                "down_blocks.2.downsamplers.0.conv.bias": "input_blocks.9.0.op.bias",
                "mid_block.resnets.1.time_emb_proj.weight": "middle_block.2.emb_layers.1.weight",
                "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.1.conv.weight",
                "up_blocks.2.upsamplers.0.conv.weight": "output_blocks.8.2.conv.weight",
                "up_blocks.3.attentions.2.proj_in.weight": "output_blocks.11.1.proj_in.weight",
            },
        ),
        (
            XL,
            1680,
            {
                "down_blocks.2.attentions.1.transformer_blocks.9.attn2.to_v.weight": (
                    "input_blocks.8.1.transformer_blocks.9.attn2.to_v.weight"
                ),
                "up_blocks.0.upsamplers.0.conv.weight": "output_blocks.2.2.conv.weight",
                "add_embedding.linear_2.bias": "label_emb.0.2.bias",
                "conv_norm_out.weight": "out.0.weight",
            },
        ),
    ],
    ids=["1.x", "xl"],
)
def test_networks_of_full_size_have_the_names_of_the_published_files(config: dict, count: int, some: dict) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**config)
    names = {name: original_name(name, unet.config) for name in unet.state_dict()}
    assert len(set(names.values())) == len(names) == count
    assert {name: names[name] for name in some} == some


@pytest.mark.parametrize(
    "name",
    [
        "encoder_hid_proj.weight",
        "class_embedding.weight",
        "down_blocks.0.resnets.0.conv3.weight",
        "mid_block.attentions.1.norm.weight",
        "down_blocks.0.motion_modules.0.norm.weight",
        "up_blocks.0",
        "conv_inner.weight",
    ],
)
def test_what_such_files_have_no_place_for_is_refused(name: str) -> None:
    config = {"layers_per_block": 2, "up_block_types": ["UpBlock2D"]}
    with pytest.raises(ValueError, match=f"{name} of the U-Net has no name in single-file checkpoints"):
        original_name(name, config)
    with pytest.raises(ValueError, match="has no name"):
        original_name("down_blocks.0.resnets.0.conv1.weight", {"layers_per_block": [1, 2]})
