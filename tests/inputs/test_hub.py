"""Hub ids: those of real models pass, and what would be a path elsewhere does not."""

from __future__ import annotations

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from lethe.inputs.hub import hub_problem


@pytest.mark.parametrize(
    "model", ["CompVis/stable-diffusion-v1-4", "stabilityai/stable-diffusion-xl-base-1.0", "a/b", "A1/b_c.d-e_"]
)
@pytest.mark.parametrize("revision", [None, "main", "refs/pr/1", "v1.0", "133a221b8aa7292a167afc5127cb63fb5005638b"])
def test_what_the_hub_has_passes(model: str, revision: str | None) -> None:
    assert hub_problem(model, revision) is None
    validate_repo_id(model)


@pytest.mark.parametrize("model", ["owner/..", "../x", "owner/name/..", "owner/.", "-x/y", "~/x", "a b/c", "owner/n;x"])
def test_what_the_hub_cannot_have_is_refused(model: str) -> None:
    assert hub_problem(model, None) == f"{model!r} is no hub id (owner/name)"
    with pytest.raises(HFValidationError):
        validate_repo_id(model)


@pytest.mark.parametrize("revision", ["", "..", "a/../b", "/etc", "-x", "a b", "a\n", "$(x)", "a:b", "~1"])
def test_a_revision_that_is_no_name_is_refused(revision: str) -> None:
    assert hub_problem("owner/name", revision) == f"{revision!r} is no commit, tag or branch of a hub id"
