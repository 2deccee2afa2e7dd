"""A foreign error becomes one line of our own message."""

import pytest

from neurosteer_cli.errors import one_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("bad header"), "bad header"),
        (ValueError("\n  first\nsecond\n"), "first"),
        (ImportError("install it:\n`pip install it`.\nthen"), "install it: `pip install it`."),
        (KeyError(), "KeyError"),
        (ValueError("  \n "), "ValueError"),
        (ValueError("x" * 300), "x" * 200),
    ],
)
def test_a_foreign_error_is_told_in_one_short_line(error: Exception, line: str) -> None:
    assert one_line(error) == line
