"""Errors a user can act on: one line that names the file or field, what was found, what is allowed."""


class GymnastError(Exception):
    """Base of every error gymnast raises on purpose; the command line prints it as one line and exits with 2."""


class ConfigError(GymnastError):
    """A configuration file or command-line value is missing, misspelt or out of range."""


class DataError(GymnastError):
    """An episode, image, video or action array from outside is unreadable or has the wrong shape, type or range."""


class LengthError(DataError):
    """An episode's frames and actions are not of the numbers that belong together."""


class CheckpointError(GymnastError):
    """A checkpoint folder or file is incomplete, for another size, or not of the layout it claims."""


class StationError(GymnastError):
    """The arm, camera or simulated station does not answer or reports a fault."""


class JudgeError(GymnastError):
    """A judge cannot be built or reached. A single failed vote is an abstention, not this error."""


class DocumentError(ValueError):
    """A YAML or JSON text cannot be read, or says something twice. Whoever reads it adds the file's name."""


class TwiceError(DocumentError):
    """A key stands twice in one mapping."""
