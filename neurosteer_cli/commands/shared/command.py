"""A command as people type it: options given twice, `-a=8`, texts that begin with a dash, examples to paste.

Knows how typer reads a command line; knows nothing of what any option means.
"""

import re
import shlex
from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

HELP_OPTIONS = {"help_option_names": ["-h", "--help"]}
KINDS = {"valid integer": "a whole number", "valid number": "a number"}  # by a validator's words
WIDTH = 76  # of an example, beside the indentation of a help text in 80 columns


class UsageError(typer.BadParameter):
    """What is wrong with a command line, without the name of one parameter before it."""

    def format_message(self) -> str:
        return self.message


class Command(TyperCommand):
    """A command that refuses a single-valued option given twice, where typer would take the last one."""

    def __init__(self, *args: Any, help: str | None = None, **settings: Any) -> None:
        super().__init__(*args, help=help and pasteable(help), **settings)

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        arguments = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return ["[OPTIONS]", *(param.metavar or (param.name or "").upper() for param in arguments)]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        args = self._without_equals(args)
        try:
            values, _, order = self.make_parser(ctx).parse_args(list(args))
        except Exception as error:  # the class is typer's own or click's, as its version has it
            if type(error).__name__ == "NoSuchOption" and not getattr(error, "possibilities", None):
                error.message += "; a text that begins with a dash goes after --"  # type: ignore[attr-defined]
            raise
        self._check_pairs(ctx, values)
        self._check_repeats(ctx, order)
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            kind = next((kind for words, kind in KINDS.items() if words in error.message), None)
            if kind is None or error.param is None:
                raise
            given = values.get(error.param.name or "")
            raise UsageError(f"{'/'.join(error.param.opts)} {given!r}: not {kind}", ctx=ctx) from None

    def _without_equals(self, args: list[str]) -> list[str]:
        """`-a=8` as `-a8`; what stands after `--` is nobody's option."""
        end = args.index("--") if "--" in args else len(args)
        short = {name for param in self.params for name in param.opts if re.fullmatch("-[A-Za-z]", name)}
        options = [arg[:2] + arg[3:] if arg[:2] in short and arg[2:3] == "=" else arg for arg in args[:end]]
        return options + args[end:]

    def _check_pairs(self, ctx: Any, values: dict[str, Any]) -> None:
        """An option of two values may not take the next option for one of them."""
        names = {name for param in self.get_params(ctx) for name in param.opts}
        for param in self.params:
            given = values.get(param.name or "")
            if param.nargs > 1 and given and names.intersection(map(str, given)):
                raise UsageError(f"{param.opts[0]} takes {param.nargs} values: {param.metavar}", ctx=ctx)

    def _check_repeats(self, ctx: Any, order: list[Any]) -> None:
        counts = Counter(param for param in order if param.param_type_name == "option")
        for param, n in counts.items():
            if n > 1 and not (param.multiple or param.is_flag or param.count):
                raise UsageError(f"{'/'.join(param.opts)} is given {n} times; give it once", ctx=ctx)


def options_given(ctx: typer.Context) -> dict[str, str]:
    """The options on the command line, by the names of their parameters, as they are written."""
    return {
        param.name or "": param.opts[0]
        for param in ctx.command.params
        if param.name and ctx.get_parameter_source(param.name).name == "COMMANDLINE"  # type: ignore[union-attr]
    }


def completing(*values: str) -> Callable[[str], list[str]]:
    """What a shell completes an option's value from."""
    return lambda incomplete: [value for value in values if value.startswith(incomplete)]


def pasteable(text: str) -> str:
    """A help text whose examples can be pasted into a shell, whatever the width of the terminal."""
    before, *examples = text.split("Example: ")
    if not examples:
        return text
    return before + "\b\nExample:\n" + "\n".join(map(_wrapped, examples))


def _wrapped(example: str) -> str:
    lines = [" "]
    for word in map(_quoted, shlex.split(example)):
        if len(lines[-1]) + len(word) + 3 > WIDTH:
            lines.append("     ")
        lines[-1] += f" {word}"
    return " \\\n".join(lines)


def _quoted(word: str) -> str:
    """A word as a person quotes it in a shell."""
    return word if re.fullmatch(r"[\w./:=,%@+~-]+", word) else f'"{word}"'
