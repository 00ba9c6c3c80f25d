"""What a job is told: its settings as one argument, and what of them decides whether its files are current."""

from __future__ import annotations

import json
import re
from typing import Any

PLACES = ("model", "revision", "variant")  # where a model is


def encode_argument(value: Any) -> str:
    r"""Return `value` as compact JSON with sorted keys that holds nothing a shell interprets within quotes.

    Every character other than ASCII letters, digits, space and `_.,:{}[]"+-` is written as a \uXXXX escape.
    Keys of mappings must be text; tuples come back as lists.

    Raises: ValueError on NaN or an infinity; TypeError on what JSON cannot hold.
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return re.sub(r'\\u[0-9a-f]{4}|\\.|[^A-Za-z0-9 _.,:{}\[\]"+-]', _escape, text)


class Argument:
    """Settings of a step: as text one shell-safe argument, which also tells the step where its models lie.

    `decisive` is what decides whether a file made with these settings is current: the same, but models by what they are
    (`fingerprint`) and not by where, and without the device. No text itself, so Snakemake does not compare it.
    """

    def __init__(self, settings: dict) -> None:
        self.text = encode_argument(settings)
        decisive = {key: value for key, value in settings.items() if key != "device"}
        self.decisive = json.dumps(without_places(decisive), sort_keys=True)

    def made_by(self, digest: str) -> Planned:
        """The argument of one job: these settings, and the digest that the record of its files will hold."""
        return Planned(f'{self.text[:-1]},"made_by":"{digest}"}}')


class Planned:
    """A text that Snakemake puts into a command and does not compare with that of the last run."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


def without_places(settings: Any) -> Any:
    """Settings without the folder or hub id, revision and variant of every model that has a `fingerprint`."""
    if isinstance(settings, list | tuple):
        return [without_places(value) for value in settings]
    if not isinstance(settings, dict):
        return settings
    left_out = PLACES if "fingerprint" in settings else ()
    return {key: without_places(value) for key, value in settings.items() if key not in left_out}


def _escape(match: re.Match) -> str:
    char = json.loads(f'"{match[0]}"') if match[0].startswith("\\") else match[0]
    return f"\\u{ord(char):04x}"
