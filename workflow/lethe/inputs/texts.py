"""Lists of texts that one may write once for many tasks."""

from __future__ import annotations

import re
from collections.abc import Sequence

from lethe.files.tables import as_read
from lethe.inputs.concepts import Concept


def unnamed(texts: Sequence[str], concepts: Sequence[Concept]) -> list[str]:
    """The texts, each once, in which no concept's name occurs as a word, as tokenizers read them (`as_read`)."""
    names = "|".join(re.escape(as_read(concept.name)) for concept in concepts)
    named = re.compile(rf"(?<!\w)(?:{names})(?!\w)")
    return [text for text in dict.fromkeys(texts) if not (concepts and named.search(as_read(text)))]
