"""What captions of the report say: protocols and n, and nothing that could be markup."""

from __future__ import annotations

from pathlib import Path

import pytest
from docutils.core import publish_parts

from lethe.jobs import Shown, Step
from lethe.plan import Plan
from lethe.records.captions import About, about, as_rst, protocols_in
from plans import make_folder, plan_of, several
from running import ROOT

NUMBERS = """task,method,number,value,n,low_95,high_95,protocol
objects,original,acc_e,100,18,80,100,top@1 of `x`_
objects,mace,acc_e,0,16,0,20,top@1 of `x`_
objects,mace,acc_s,90,162,80,95,top@1 of `x`_
objects,mace,fid,9,,,,fid@1
birds,mace,acc_e,0,7,0,20,top@1 of `x`_
objects,mace,odd,1,5,,,
"""


def test_each_protocol_is_said_with_its_numbers_and_their_n(tmp_path: Path) -> None:
    path = tmp_path / "t.numbers.csv"
    path.write_text(NUMBERS)
    want = ["top@1 of `x`_: acc_e (n = 16 to 18), acc_s (n = 162)", "fid@1: fid (n = unknown)"]
    assert protocols_in(path, "objects") == want
    assert protocols_in(path)[0] == "top@1 of `x`_: acc_e (n = 7 to 18), acc_s (n = 162)"


@pytest.mark.parametrize(
    "text", ["`a <b>`_ *c* |d| e_", ".. raw:: html", "x::\n\n  y", "$(z) \\ & <script>", "naïve ✗"]
)
def test_no_text_is_markup(text: str) -> None:
    html = publish_parts(as_rst(text), writer_name="html")["body"]
    plain = html.removeprefix("<p>").removesuffix("</p>\n")
    for sign, written in {"&lt;": "<", "&gt;": ">", "&amp;": "&", "&#64;": "@"}.items():
        plain = plain.replace(sign, written)
    assert plain == " ".join(text.split())


def test_every_file_that_the_report_holds_has_a_caption() -> None:
    shown = [
        f"{step.name}_{name}"
        for step in vars(Plan).values()
        if isinstance(step, Step)
        for name, written in step.writes.items()
        if isinstance(written, Shown)
    ]
    assert len(shown) > 10
    found = {path.stem for path in (ROOT / "workflow/report").glob("*.rst")}
    assert found == {*shown, "workflow"}


def test_captions_of_jobs_say_what_they_show(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_folder(tmp_path))
    plan = plan_of(several())
    assert about(plan.table("both")) == []  # of numbers that are not there yet
    path = Path(plan.table("both").outputs["numbers"])
    path.parent.mkdir(parents=True)
    path.write_text(NUMBERS)
    assert about(plan.counts("both")) == about(plan.table("both")) == protocols_in(path)
    assert about(plan.gallery("birds")) == ["Of original, mace-naive, erasing bird.", *protocols_in(path, "birds")]
    assert about(plan.examples("shown"))[-1] == "n = 2 images of each prompt and edit."
    assert about(plan.losses("emoji", "birds", "mace-naive")) == ["n = 1 concepts: bird."]
    assert "n \\= 1" in str(About(plan.losses("emoji", "birds", "mace-naive")))
