"""Lists of texts that one may write once for many tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lethe.files.tables import as_read
from lethe.inputs.concepts import Concept


def unnamed(texts: Sequence[str], concepts: Sequence[Concept]) -> list[str]:
    """The texts, each once, in which no concept's name occurs as a word, as tokenizers read them (`as_read`)."""
    once = list(dict.fromkeys(texts))
    named = name_occurs(once, [concept.name for concept in concepts])
    return [text for text, is_named in zip(once, named, strict=True) if not is_named]


def name_occurs(texts: Sequence[str], names: Sequence[str]) -> list[bool]:
    """Of each text, whether one of the names occurs in it as a word, as tokenizers read them (`as_read`)."""
    found = re.compile(rf"(?<!\w)(?:{'|'.join(re.escape(as_read(name)) for name in names)})(?!\w)")
    return [bool(names and found.search(as_read(text))) for text in texts]
