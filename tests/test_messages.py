"""What a person is told: one line each, without characters that a terminal acts on."""

from __future__ import annotations

import pytest

from lethe.messages import has_control, plain, sentence


@pytest.mark.parametrize(
    "text", ["a\nb", "\x1b[31m", "\x7f", "\x85", "\u2028", "\u2029", "\ud800", "\0", "\u200b", "\u202e"]
)
def test_control_characters_are_found_and_written_as_escapes(text: str) -> None:
    assert has_control(text)
    assert not has_control(plain(text))
    assert plain(text).isprintable()
    assert plain(text).encode().decode("unicode_escape") == text


@pytest.mark.parametrize("text", ["", "Charles-François Daubigny", "a b\u00a0c", r"AC\DC", "日本", "👩\u200d🚀"])
def test_other_text_stays(text: str) -> None:
    assert not has_control(text)
    assert plain(text) == text


def failed(path: str) -> OSError:
    with pytest.raises(OSError, match="No such file") as caught:
        open(path)  # noqa: PTH123, SIM115
    return caught.value


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("a\n  b \x1b[0m"), r"a b \x1b[0m"),
        (ValueError(), "ValueError"),
        (OSError("only words"), "only words"),
        (OSError(28, "No space left on device"), "No space left on device"),
        (OSError(18, "Invalid cross-device link", "a", None, "b"), "a, b: Invalid cross-device link"),
    ],
)
def test_an_error_is_one_line(error: Exception, told: str) -> None:
    assert sentence(error) == told


def test_notes_follow_in_brackets() -> None:
    error = ValueError("too wide")
    error.add_note("while writing a.zip")
    assert sentence(error) == "too wide (while writing a.zip)"


def test_a_file_comes_before_what_the_system_says() -> None:
    assert sentence(failed("nowhere/x")) == "nowhere/x: No such file or directory"
