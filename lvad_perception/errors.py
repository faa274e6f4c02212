"""One exception per cause. Each message is one sentence that names the thing and states the remedy.

The command lines print the message and exit with status 2; the node fails the transition with it.
"""

from typing import Final

_MOST_CHARACTERS: Final = 60


def one_line(text: str) -> str:
    """Text of a message or file that is not trusted, as it may stand in a sentence or a log.

    A line feed could pass for another message, an escape sequence speaks to the terminal, and a megabyte fills the log.
    """
    kept = text[:_MOST_CHARACTERS]
    return escaped(kept) if kept == text else f"{escaped(kept)}…"


def escaped(text: str, *, keep: str = "") -> str:
    """A text in which control characters, lone surrogates and the like, except those in ``keep``, are escaped."""
    return "".join(each if each.isprintable() or each in keep else ascii(each)[1:-1] for each in text)


class LvadError(Exception):
    """Base of everything that this package raises on bad input."""


class ConfigError(LvadError):
    """A recipe, option or parameter has an unknown key or an impossible value."""


class DatasetError(LvadError):
    """A data set folder is missing, empty or has no labels for what is asked of it."""


class LabelError(LvadError):
    """A label file cannot be read as any known BDD100K format."""


class ImageError(LvadError):
    """An image file or an encoded image cannot be decoded."""


class ModelFileError(LvadError):
    """A model file is missing, truncated, of another kind, or carries no manifest."""


class VocabularyMismatchError(LvadError):
    """A model file, bag or data set lists other classes than this package."""


class EngineError(LvadError):
    """An engine cannot be created or cannot run on this machine."""


class DeviceError(EngineError):
    """The CUDA device failed; it does nothing more for this process."""


class MissingDependencyError(LvadError):
    """An optional dependency is needed for what was asked and is not installed."""


class MessageError(LvadError):
    """A ROS message has an unsupported encoding or inconsistent dimensions."""


class BagError(LvadError):
    """A bag cannot be opened, has no usable topic, or cannot be written."""


class CheckpointError(LvadError):
    """A checkpoint is missing, truncated, or does not fit the configured model."""


class NonFiniteLossError(LvadError):
    """A loss became NaN or infinite during training."""


class EvaluationError(LvadError):
    """A model was trained and saved, but could not be measured."""


class LoaderError(LvadError):
    """A process that loads images died, or ran out of shared memory or open files."""


class ExportError(LvadError):
    """The exported model does not reproduce the torch model's outputs."""
