"""The check where a model's numbers become files or measures: all finite, or a sentence that says which are not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor


def require_finite(values: Tensor | np.ndarray, *, of: str, names: Sequence[str] = (), mend: str) -> None:
    """Raise ValueError when a row of `values` `[n, ...]` holds NaN or infinity.

    The sentence says `of` what they are, how many rows are concerned, the first one's name (of `names`, one a row, if
    there are any) and `mend`, what the user can do.
    """
    values = torch.as_tensor(values)
    if values.is_floating_point() and values.element_size() == 1:
        values = values.float()  # float8 has no arithmetic of its own
    refuse_rows(values.isfinite().reshape(len(values), -1).all(1), of=of, names=names, mend=mend)


def refuse_rows(good: Tensor, *, of: str, names: Sequence[str] = (), mend: str) -> None:
    """The same for rows `[n]` that are known to be good or not."""
    if good.all():
        return
    bad = (~good).nonzero().flatten().tolist()
    first = f", the first for {names[bad[0]]}" if names else ""
    raise ValueError(f"{of}: {len(bad)} of {len(good)} hold NaN or infinity{first}; {mend}")


def require_directions(embeddings: np.ndarray, *, of: str, names: Sequence[str], mend: str) -> None:
    """Raise ValueError when a row of `embeddings` `[n, d]` is not finite or zero, so that it has no cosine."""
    require_finite(embeddings, of=of, names=names, mend=mend)
    lengths = np.linalg.norm(embeddings, axis=1)
    if not lengths.all():
        first = names[int(np.argmin(lengths))]
        raise ValueError(f"{of}: {int((lengths == 0).sum())} of {len(lengths)} are zero, the first for {first}; {mend}")


def mend_of(dtype: torch.dtype) -> str:
    """What helps against overflow in a model that runs in `dtype`."""
    if dtype == torch.float16:
        return "float16 ends at 65504: set precision to bfloat16 or float32"
    return (
        f"{str(dtype).removeprefix('torch.')} has room enough: the weights of the base, or an edit of them, are broken"
    )
