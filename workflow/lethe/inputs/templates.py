"""Templates: prompts with {} for a phrase."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from lethe.files.tables import decoded, lines_of
from lethe.messages import has_control

SHIPPED = Path(__file__).parents[1] / "templates"


def read_templates(path: Path) -> list[str]:
    """Read one template per line; blank lines and lines starting with '#' are skipped.

    Raises ValueError, naming file and line, for a template without exactly one '{}' or with a control or invisible
    character, for a file without any template and for what `decoded` or `lines_of` refuse.
    """
    templates = []
    for number, line in enumerate(lines_of(decoded(Path(path).read_bytes(), path), path), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        if has_control(line.strip()):
            raise ValueError(f"{path}, line {number}: {line!r} holds an invisible or control character; remove it")
        if line.count("{}") != 1:
            raise ValueError(f"{path}, line {number}: a template must contain {{}} exactly once; got {line!r}")
        templates.append(line.strip())
    if not templates:
        raise ValueError(f"{path}: no template found; write one per line, with {{}} where the phrase goes")
    return templates


def template_file(templates: Mapping[str, str | None], kind: str) -> str:
    """The template file of a kind of concept: the one that is named, or Lethe's own."""
    return templates[kind] or str(SHIPPED / f"{kind}.txt")


def fill(template: str, phrase: str) -> str:
    """The prompt that a template makes of a phrase, taken literally (braces in a name are just letters)."""
    return template.replace("{}", phrase)


def check_prompts(templates: Sequence[str]) -> None:
    """Raise ValueError unless there is a template in a method's `prompts`, and each holds {} exactly once."""
    if not templates:
        raise ValueError("prompts must hold at least one; {} alone is the bare word")
    if wrong := next((template for template in templates if template.count("{}") != 1), None):
        raise ValueError(f"prompts: {wrong!r} must hold {{}} exactly once")
