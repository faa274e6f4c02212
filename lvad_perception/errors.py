"""One exception per cause. Each message is one sentence that names the thing and states the remedy.

The command lines print the message and exit with status 2; the node fails the transition with it.
"""

from typing import Final

_MOST_CHARACTERS: Final = 60


def one_line(text: str) -> str:
    """Make untrusted text from a message or file safe for error messages and logs.

    Otherwise a line feed could fake another message, an escape sequence control the terminal, a megabyte fill the log.
    """
    kept = text[:_MOST_CHARACTERS]
    return escaped(kept) if kept == text else f"{escaped(kept)}…"


def escaped(text: str, *, keep: str = "") -> str:
    """Escape control characters, lone surrogates and other unprintable characters, except those in ``keep``."""
    return "".join(each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text)


class LvadError(Exception):
    """Base of all errors that this package raises for bad input."""


class ConfigError(LvadError):
    """A recipe, option or parameter has an unknown key or an impossible value."""


class DatasetError(LvadError):
    """A data set folder is missing or empty, or lacks the requested split or labels."""


class LabelError(LvadError):
    """An annotation file or mask cannot be read, is of no known format, or does not fit its image."""


class ImageError(LvadError):
    """An image file or an encoded image cannot be decoded."""


class ModelFileError(LvadError):
    """A model file is missing, truncated, of another format, or has no manifest."""


class VocabularyMismatchError(LvadError):
    """A model file, bag or data set has other classes than it is used with."""


class EngineError(LvadError):
    """An engine cannot be created or cannot run on this machine."""


class DeviceError(EngineError):
    """The CUDA device failed; this process cannot use it any more."""


class MissingDependencyError(LvadError):
    """An optional dependency that the operation needs is not installed."""


class MessageError(LvadError):
    """A ROS message has an unsupported encoding or inconsistent dimensions."""


class BagError(LvadError):
    """A bag cannot be opened, has no usable topic, or cannot be written."""


class CheckpointError(LvadError):
    """A checkpoint is missing, truncated, or does not fit the configured model."""


class NonFiniteLossError(LvadError):
    """A loss became NaN or infinite during training."""


class EvaluationError(LvadError):
    """A model was trained and saved, but its evaluation failed."""


class LoaderError(LvadError):
    """A data-loading process died, or ran out of shared memory or open files."""


class ExportError(LvadError):
    """The exported model does not reproduce the torch model's outputs."""
