"""Ids of models on the hub."""

from __future__ import annotations

import re

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9_])?"
ID = re.compile(f"{_NAME}/{_NAME}")
REVISION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./-]*")


def hub_problem(model: str, revision: str | None) -> str | None:
    """Why a model and its revision cannot be on the hub; None if they can. Both become parts of paths on the disk."""
    if not ID.fullmatch(model) or ".." in model:
        return f"{model[:200]!r} is no hub id (owner/name)"
    if revision is not None and (not REVISION.fullmatch(revision) or ".." in revision):
        return f"{revision[:200]!r} is no commit, tag or branch of a hub id"
    return None
