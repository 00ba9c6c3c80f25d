"""A base as methods see it: its text side, its cross-attention projections, and, for those that train, all of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lethe.bases.pipeline import PRECISIONS, load_pipeline, load_text, text_encoders
from lethe.bases.text import TextEncoders
from lethe.bases.unet import cross_attention_projections
from lethe.bases.weights import projection_weights, weights_hash, weights_hash_of

if TYPE_CHECKING:
    from diffusers import DiffusionPipeline


class Base:
    """A diffusion pipeline to edit, in a folder (`in_folder`) or in memory (`of_pipeline`); parts load when asked for.

    about: what records say of it.  device, dtype: where and in what it computes.
    """

    def __init__(self, about: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        self.about, self.device, self.dtype = dict(about), device, dtype

    @classmethod
    def in_folder(cls, folder: Path, about: Mapping[str, Any], *, device: torch.device, precision: str) -> Base:
        """A base whose folder is known and checked; `about` has its variant."""
        return _InFolder(folder, about, device, PRECISIONS[precision])

    @classmethod
    def of_pipeline(cls, pipeline: DiffusionPipeline, name: str = "pipeline") -> Base:
        """A pipeline that is loaded."""
        return _Loaded(pipeline, name)

    @cached_property
    def pipeline(self) -> DiffusionPipeline:
        """The whole pipeline, with the scheduler that the base has."""
        raise NotImplementedError

    @cached_property
    def text(self) -> TextEncoders:
        """Tokenizers and text encoders."""
        raise NotImplementedError

    @cached_property
    def projections(self) -> dict[str, Tensor]:
        """The weights of the cross-attention projections `[out, d]` by module name, as they are stored."""
        raise NotImplementedError

    @cached_property
    def weights_sha256(self) -> dict[str, str]:
        """SHA-256 of the weights that edits are made from, for the U-Net and each text encoder."""
        raise NotImplementedError

    def computing(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Weights on the base's device and in its dtype."""
        return {name: weight.to(self.device, self.dtype) for name, weight in weights.items()}


class _InFolder(Base):
    def __init__(self, folder: Path, about: Mapping[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        super().__init__(about, device, dtype)
        self.folder, self.variant = folder, about.get("variant")

    def _load(self, load: Callable[..., Any], **more: Any) -> Any:
        precision = next(name for name, dtype in PRECISIONS.items() if dtype is self.dtype)
        place = dict(device=self.device, precision=precision, variant=self.variant)
        return load(str(self.folder), None, **place, **more)

    @cached_property
    def pipeline(self) -> DiffusionPipeline:
        return self._load(load_pipeline)

    @cached_property
    def text(self) -> TextEncoders:
        return self._load(load_text)

    @cached_property
    def projections(self) -> dict[str, Tensor]:
        return projection_weights(str(self.folder), None, variant=self.variant)

    @cached_property
    def weights_sha256(self) -> dict[str, str]:
        return weights_hash(self.folder, variant=self.variant)


class _Loaded(Base):
    def __init__(self, pipeline: DiffusionPipeline, name: str) -> None:
        place = str(getattr(pipeline, "name_or_path", "") or type(pipeline).__name__)
        super().__init__(dict(name=name, model=place, revision=None, variant=None), pipeline.device, pipeline.dtype)
        self.pipeline = pipeline

    @cached_property
    def text(self) -> TextEncoders:
        return text_encoders(self.pipeline)

    @cached_property
    def projections(self) -> dict[str, Tensor]:
        found = cross_attention_projections(self.pipeline.unet)
        return {name: module.weight.detach().cpu() for name, module in found.items()}

    @cached_property
    def weights_sha256(self) -> dict[str, str]:
        parts = {"unet": self.pipeline.unet}
        encoders = zip(("text_encoder", "text_encoder_2"), self.text.encoders, strict=False)
        return {name: weights_hash_of(network.state_dict()) for name, network in {**parts, **dict(encoders)}.items()}
