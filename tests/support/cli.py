"""Run the command line as a user does, in this process."""

import json
from typing import Any

from typer.testing import CliRunner, Result

from neurosteer_cli.cli import app


def run(*arguments: str, **options: Any) -> Result:
    """Run a command that must succeed."""
    result = CliRunner().invoke(app, arguments, prog_name="neurosteer", **options)
    assert result.exit_code == 0, result.output or result.exc_info
    return result


def refused(*arguments: str, code: int = 2, **options: Any) -> str:
    """Run a command that must fail on purpose; what it says."""
    result = CliRunner().invoke(app, arguments, prog_name="neurosteer", **options)
    assert result.exit_code == code, result.output
    return result.stderr.splitlines()[-1]


def rows(result: Result) -> list[dict[str, Any]]:
    """The records that a command wrote to stdout."""
    return [json.loads(line) for line in result.stdout.splitlines()]
