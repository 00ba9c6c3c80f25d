"""The documents are a site: every page is reached from its index, every link leads somewhere, nothing is warned of."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from lethe.plugins import kinds
from running import ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, made as docs/deploy.md says; a warning is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(folder / "doctrees"), "-c", "docs"]
    run = subprocess.run([*command, ".", str(folder / "site")], capture_output=True, text=True, cwd=ROOT, timeout=600)
    assert run.returncode == 0, run.stderr
    return folder / "site"


def test_the_index_leads_to_every_page(site: Path) -> None:
    documents = {path.relative_to(ROOT).with_suffix(".html").as_posix() for path in ROOT.glob("docs/**/*.md")}
    made = {path.relative_to(site).as_posix() for path in site.glob("**/*.html")}
    assert made >= documents | {"README.html", "config/README.html", "results/README.html"}
    assert 'url=docs/index.html"' in (site / "index.html").read_text(encoding="utf-8")
    index = (site / "docs" / "index.html").read_text(encoding="utf-8")
    led = {(Path("docs") / target).as_posix() for target in re.findall(r'href="([\w./-]+\.html)', index)}
    for name in documents - {"docs/index.html"}:
        assert name in led, name


@pytest.mark.parametrize("method", kinds("methods"))
def test_every_method_has_its_equation(site: Path, method: str) -> None:
    page = (site / "docs" / "methods" / f"{method}.html").read_text(encoding="utf-8")
    assert 'class="math notranslate nohighlight"' in page
    assert "$$" not in page
