"""What to say of edits that did not erase, for tables of how often what is erased is still recognised."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lethe.tables.row import Row


def notes(task: str, rows: Mapping[str, Row], remedies: Mapping[str, str]) -> list[str]:
    """What to say of edits that did not erase: a sentence for each method of a task.

    A concept is not erased when it is recognised as often as in the images of the base as it is (the method
    `original`), by what acc_e_by_concept (percent) and n_acc_e_by_concept among the details of a row say. Of a concept
    that is never recognised there, no number says whether it was erased.
    """
    found = []
    before = rows["original"].details["acc_e_by_concept"]
    if never := [concept for concept, share in before.items() if share == 0]:
        told = f"the base as it is never draws {_few(never)} so that the judge knows it"
        found.append(f"{task}: {told}; whether that was erased, these images cannot show")
    for method, row in rows.items():
        if method == "original":
            continue
        after, counts = row.details["acc_e_by_concept"], row.details["n_acc_e_by_concept"]
        as_before = [concept for concept, share in after.items() if share >= before.get(concept, 0) > 0]
        if as_before:
            worst = max(as_before, key=after.__getitem__)
            hits, once = (round(counts[worst] * share / 100) for share in (after[worst], before[worst]))
            told = f"{len(as_before)} of {len(after)} concepts as before, such as {worst!r} ({hits} of {counts[worst]} "
            mend = remedies.get(method) or f"look at the settings of {method}"
            found.append(f"{task}/{method}: {told}images, before {once}): not erased; {mend}")
    return found


def _few(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
