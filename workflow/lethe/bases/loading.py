"""The parts of models, loaded whole or refused: every weight, the vocabulary, the window, the size of images.

The libraries fill what a folder lacks at random or with defaults, and go on. Everything that is loaded of a model, by
whatever step, is loaded here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from torch import nn

from lethe.bases.checks import TYPES, type_problem
from lethe.bases.folder import lacking_weights, lacking_words, read_object, shard_index, stored_as, weight_files
from lethe.files.tensors import open_tensors

if TYPE_CHECKING:
    from transformers import BaseImageProcessor, CLIPTokenizer, PreTrainedConfig, PreTrainedTokenizerBase

Network = TypeVar("Network", bound=nn.Module)

# Rows that a table of embeddings may have beyond its vocabulary: it is often rounded up, to a multiple of 128 at most.
SPARE_ROWS = 127
WHOLE_CLIP = ("vision_model.", "visual_projection.", "text_projection.", "logit_scale")  # beside its text encoder


WEIGHTS = "download all of it again, or name a model in diffusers format whose weights are safetensors"
WORDS = "download its files again"


@contextmanager
def told_of(model: str | Path, mend: str) -> Iterator[None]:
    """Turn what the libraries raise while they load a model into a sentence that names it and ends with `mend`."""
    from safetensors import SafetensorError

    try:
        yield
    except (
        OSError,
        SafetensorError,
        ImportError,
        AttributeError,
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        RuntimeError,
    ) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ValueError(f"{model}: it does not load ({reason}); {mend}") from None


def load_network(
    kind: type[Network], folder: Path, *, dtype: torch.dtype, variant: str | None = None, model: str | Path = ""
) -> Network:
    """The network of a class of diffusers or transformers in a folder, on the CPU, in `dtype`, ready for inference.

    A component without weight files of `variant` loads its others (`weight_files`). `model` is named in messages, by
    default the folder.

    Raises ValueError when the folder's configuration is of another class, when a weight is missing, has another shape,
    or is one that the class does not have, and when there are no weights as safetensors.
    """
    where = model or folder
    if lacking := lacking_weights(folder, variant=variant):
        raise ValueError(f"{where}: it does not load ({folder} lacks {lacking[0]}); {WEIGHTS}")
    _check_class(kind, folder, where)
    _check_shards(folder, variant, where)
    with told_of(where, WEIGHTS):
        network, info = kind.from_pretrained(
            folder,
            variant=variant if variant and stored_as(folder, variant) else None,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are told below, in a sentence
        )
    _account(kind, folder, variant, info, where)
    return network.eval()


def _check_class(kind: type, folder: Path, where: str | Path) -> None:
    config = read_object(folder / "config.json")
    if kind.__name__ in TYPES:
        problem = type_problem(config, kind.__name__)
    else:
        found = config.get("_class_name", kind.__name__)
        problem = f"is of the class {found}, and {kind.__name__} is wanted here" if found != kind.__name__ else None
    if problem:
        raise ValueError(f"{where}: {folder.name} {problem}")


def _check_shards(folder: Path, variant: str | None, where: str | Path) -> None:
    """Raise ValueError unless shards hold what their index says, which the libraries take for what was loaded."""
    if (said := shard_index(folder, variant=variant)) is None:
        return
    held = {}
    for path in weight_files(folder, variant=variant).values():
        with open_tensors(path) as file:
            held |= dict.fromkeys(file.keys(), path.name)
    if differing := sorted(name for name in {*said, *held} if said.get(name) != held.get(name)):
        raise ValueError(
            f"{where}: the index of the shards in {folder} and the shards differ in {len(differing)} of their weights "
            f"(such as {differing[0]}); download or save the model again, whole"
        )


def _account(kind: type, folder: Path, variant: str | None, info: Mapping[str, Any], where: str | Path) -> None:
    """Raise ValueError unless the weights in the files and those of the network are the same."""
    missing, other_shape = sorted(info["missing_keys"]), sorted(map(str, (k[0] for k in info["mismatched_keys"])))
    extra = set(info["unexpected_keys"])
    if extra:
        # A tensor of whole numbers is a buffer, such as position ids, which come and go between versions.
        buffers = _buffers(folder, variant)
        extra = {name for name in extra if not any(b.endswith(name) or name.endswith(b) for b in buffers)}
        if kind.__name__.startswith("CLIPText"):
            projection = kind.__name__.endswith("WithProjection")
            beside = tuple(name for name in WHOLE_CLIP if not (projection and name == "text_projection."))
            extra = {name for name in extra if not name.startswith(beside)}
    for names, what in (
        (missing, "lack {n} of the weights of {kind} (such as {name}), which would be made up at random"),
        (other_shape, "have {n} weights of another shape than their configuration says for {kind} (such as {name})"),
        (sorted(extra), "hold {n} weights that {kind} does not have as it is configured (such as {name})"),
    ):
        if names:
            told = what.format(n=len(names), kind=kind.__name__, name=names[0])
            raise ValueError(f"{where}: the files in {folder} {told}; download or save the model again, whole")
    if errors := info.get("error_msgs"):
        raise ValueError(f"{where}: {folder} does not load ({str(next(iter(errors))).splitlines()[0]})")


def _buffers(folder: Path, variant: str | None) -> set[str]:
    """Names of the tensors in a component's weight files that are no floating-point numbers."""
    names = set()
    for path in weight_files(folder, variant=variant).values():
        with open_tensors(path) as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
        names |= {name for name, kind in kinds.items() if not kind.startswith(("F", "BF"))}
    return names


def load_tokenizer(folder: Path, encoder: PreTrainedConfig, *, model: str | Path = "") -> CLIPTokenizer:
    """The tokenizer in a folder for a CLIP text encoder with this configuration.

    Raises ValueError as `check_words`, and when its window is not told or is longer than the encoder's, or ends texts
    with another token than the encoder looks for.
    """
    from transformers import CLIPTokenizer

    where = model or folder
    check_words_there(folder, where)
    with told_of(where, WORDS):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    check_words(tokenizer, encoder, folder, where)
    window, reads = tokenizer.model_max_length, encoder.max_position_embeddings
    if window > reads:
        told = f"is {window} tokens" if window < 1_000_000 else "is told nowhere"
        raise ValueError(
            f"{where}: the window of the tokenizer in {folder} (model_max_length) {told}, and the text encoder reads "
            f"{reads}; set it in tokenizer_config.json"
        )
    # 2 stands in configurations of before that token counted; the encoder then takes the highest id.
    if (ends := encoder.eos_token_id) not in (2, tokenizer.eos_token_id):
        raise ValueError(
            f"{where}: the tokenizer in {folder} ends texts with token {tokenizer.eos_token_id}, and the text encoder "
            f"looks for {ends}; they are of two models"
        )
    return tokenizer


def check_words_there(folder: Path, where: str | Path) -> None:
    """Raise ValueError when a tokenizer's folder lacks a file of its vocabulary, or what says how it is used."""
    if lacking := lacking_words(folder):
        raise ValueError(f"{where}: {folder} lacks {' and '.join(lacking)}; {WORDS}")


def check_words(tokenizer: PreTrainedTokenizerBase, encoder: PreTrainedConfig, folder: Path, where: str | Path) -> None:
    """Raise ValueError unless a tokenizer has as many entries as the text encoder's table of embeddings has rows."""
    entries, rows = len(tokenizer), encoder.vocab_size
    if not rows - SPARE_ROWS <= entries <= rows:
        raise ValueError(
            f"{where}: the vocabulary in {folder} has {entries} entries, and the text encoder was made for {rows}; "
            "download the tokenizer's files again (tokenizer.json, or vocab.json and merges.txt)"
        )


def load_processor(kind: Any, folder: Path, *, model: str | Path = "") -> Any:
    """An image processor, or a processor of images and words, of a class of transformers."""
    where = model or folder
    if not any((folder / name).is_file() for name in ("preprocessor_config.json", "processor_config.json")):
        raise ValueError(f"{where}: {folder} lacks preprocessor_config.json; download all of the model's files")
    with told_of(where, WORDS):
        return kind.from_pretrained(folder, local_files_only=True)


def check_image_side(side: int, reads: int, *, model: str | Path) -> None:
    """Raise ValueError unless an image processor makes squares of the side that the network reads, in pixels."""
    if side != reads:
        raise ValueError(
            f"{model}: its image processor makes images of {side} pixels, and the network reads {reads}; "
            "preprocessor_config.json is of another model"
        )


def square_side(processor: BaseImageProcessor) -> int:
    """The side in pixels of the squares that an image processor makes of square images."""
    size = processor.crop_size if getattr(processor, "do_center_crop", False) else processor.size
    sides = [size[key] for key in ("height", "shortest_edge") if size.get(key)]
    return int(sides[0])
