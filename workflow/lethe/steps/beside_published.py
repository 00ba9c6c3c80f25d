"""Put a table beside a published one: as CSV, Markdown and LaTeX."""

import re

import pandas as pd

from lethe.files.whole import written_whole
from lethe.steps.job import Job
from lethe.tables.published import beside, read_values


def run(job: Job) -> None:
    settings = job.settings
    published = read_values(job.read("values"), settings.published)
    texts = dict.fromkeys(("task", "method", "number", "protocol"), str)
    missing = {name: [""] for name in ("value", "n", "low_95", "high_95")}  # a method may be called NA
    numbers = pd.read_csv(job.read("numbers"), dtype=texts, keep_default_na=False, na_values=missing)
    found = beside(
        published,
        numbers,
        settings.published,
        name=settings.name,
        methods=settings.methods,
        tasks=settings.tasks,
    )
    with written_whole(job.out["beside"]) as part:
        found.round(4).to_csv(part, index=False, lineterminator="\n")
    shown = as_text(found)
    for name, text in (("markdown", as_markdown(shown)), ("latex", as_latex(shown))):
        with written_whole(job.out[name]) as part:
            part.write_text(text, encoding="utf-8")


def as_text(table: pd.DataFrame) -> pd.DataFrame:
    """A table whose cells are texts: fractions with two digits behind the point, nothing for what is missing."""

    def told(value: object) -> str:
        if pd.isna(value):
            return ""
        return f"{value:.2f}" if isinstance(value, float) else " ".join(str(value).split())

    return pd.DataFrame({name: [told(value) for value in table[name]] for name in table}, columns=table.columns)


def as_markdown(table: pd.DataFrame) -> str:
    """A table of texts in Markdown, in which no text is anything but text."""
    plain = table.map(lambda text: re.sub(r"([\\`*_{}\[\]<>|~#])", r"\\\1", text))
    return plain.to_markdown(index=False, disable_numparse=True) + "\n"


def as_latex(table: pd.DataFrame) -> str:
    """A table of texts in LaTeX (booktabs and longtable), in which no text is a command."""
    styled = table.style.hide(axis="index").format(escape="latex").format_index(escape="latex", axis="columns")
    return styled.to_latex(hrules=True, environment="longtable")
