"""Every error neurosteer raises on purpose, and its exit code; a foreign one as one line.

NeurosteerError                exit 1   it could not be done
├── InputError                 exit 2   an option or an input record is wrong; nothing was computed
├── ModelError                 exit 1   a model cannot be found, fetched or read
├── SAEError                   exit 1   an SAE cannot be found, fetched, read or does not fit the model
├── VectorFileError            exit 1   a vector file is damaged, incomplete or too new
├── IncompatibleVectorError    exit 1   a vector does not fit a model, another vector or a format
└── OutputError                exit 1   a result cannot be written
"""


class NeurosteerError(Exception):
    """Catch this to catch everything neurosteer raises on purpose."""

    exit_code = 1


class InputError(NeurosteerError):
    """An option value or an input record is wrong; nothing was computed."""

    exit_code = 2


class ModelError(NeurosteerError):
    """A model cannot be found, fetched or read."""


class SAEError(NeurosteerError):
    """An SAE cannot be found, fetched or read, or does not fit the model."""


class VectorFileError(NeurosteerError):
    """A vector file is damaged, incomplete or written by a newer program."""


class IncompatibleVectorError(NeurosteerError):
    """A vector does not fit a model or another vector, or a format or model cannot express it."""


class OutputError(NeurosteerError):
    """A result cannot be written."""


def one_line(error: BaseException) -> str:
    """What a foreign error says, in one line of at most 200 characters; its type if it says nothing."""
    first, *others = (str(error).strip() or type(error).__name__).splitlines()
    if first.endswith(":") and others:  # what it announces, a command to run say, is in the next
        first = f"{first} {others[0].strip()}"
    return first[:200]
