"""What can go wrong because of something outside bnncc: one line that says where, what was found, what is allowed
and what to do. The command line prints these without a traceback; any other exception is a bug and keeps its own."""


def printable(text: str) -> str:
    """The text, escaped where it would not print in one line: names come from other people's files."""
    return text if text.isprintable() else ascii(text)[1:-1]


class BnnccError(Exception):
    """Base of every error a user can cause and mend. `exit_code` is what the command line ends with."""

    exit_code = 1


class ModelError(BnnccError):
    """An ONNX file or torch module that cannot be read, checked or compiled."""


class ArtifactError(BnnccError):
    """A .bnn file that is damaged, of another format version, or made for another machine."""


class InputError(BnnccError):
    """A tensor handed to a compiled network has the wrong name, shape or type."""


class OptionError(BnnccError):
    """An option or argument outside what is allowed."""


class GateError(BnnccError):
    """A budget or an accuracy gate failed."""

    exit_code = 3


class DeviceError(BnnccError):
    """A device is missing or does not answer."""

    exit_code = 4
