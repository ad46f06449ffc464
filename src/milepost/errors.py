"""Every error Milepost raises on purpose, and the one shape of their messages. Nothing here opens a file.

    MilepostError
    ├── SettingError             (ValueError)         a setting that cannot be meant
    │   └── SettingTypeError     (TypeError)          ... because it has the wrong type
    ├── MissingExtraError        (ImportError)        an optional dependency is not installed
    ├── CheckpointNotFoundError  (FileNotFoundError)  no such checkpoint
    ├── NotACheckpointError      (ValueError)         the file is something else
    ├── ReadError                (OSError)            the file system does not give the file
    ├── DamagedCheckpointError   (ValueError)         the file was a checkpoint once
    ├── DecryptionError          (ValueError)         an encrypted file does not open with what was given
    ├── SaveError                (OSError)            a save did not reach its place
    ├── RunInUseError            (OSError)            a living process is at work on the run
    ├── UnsupportedStateError    (TypeError)          something in the training state cannot be stored
    ├── SnapshotError            (RuntimeError)       a tensor was written to while it was being saved
    ├── LoadError                (RuntimeError)       the file is sound, but does not fit what it is loaded into
    │   ├── MismatchError                             ... an entry's shape or dtype differs
    │   └── NothingLoadedError                        ... no name at all fits
    ├── GraphError               (RuntimeError)       a module cannot be turned into a graph
    └── TrainingError            (ValueError)         a training was given what it cannot go on with

Each leaf is also the builtin kind that people already catch.
"""

from __future__ import annotations


class MilepostError(Exception):
    """The root of the tree: says where, what was found, what was expected, and what to do.

    Args:
        where: The file, the field or the entry that is meant.
        found: What stands there.
        expected: What should stand there.
        remedy: What the reader can do now, a full sentence.
    """

    def __init__(self, where: object, *, found: str, expected: str, remedy: str) -> None:
        super().__init__(f"{where}: found {found}; expected {expected}. {remedy}")
        self.where = str(where)
        self.found = found
        self.expected = expected
        self.remedy = remedy

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only arguments do not survive the default pickling of exceptions, and test runners,
        # process pools and loader workers send exceptions between processes.
        attributes = {**self.__dict__, "errno": getattr(self, "errno", None)}  # an OSError keeps that elsewhere
        return _rebuild, (type(self), self.where, self.found, self.expected, self.remedy, attributes)


def _rebuild(
    kind: type[MilepostError],
    where: str,
    found: str,
    expected: str,
    remedy: str,
    attributes: dict[str, object],
) -> MilepostError:
    error = kind(where, found=found, expected=expected, remedy=remedy)
    for name, value in attributes.items():
        setattr(error, name, value)
    return error


class SettingError(MilepostError, ValueError):
    """A setting that cannot be meant; raised where it is given, not where it would hurt."""


class SettingTypeError(SettingError, TypeError):
    """A setting of the wrong type."""


class MissingExtraError(MilepostError, ImportError):
    """An optional dependency is missing; the message names the extra that brings it."""

    @classmethod
    def of(cls, purpose: str, *, extra: str, missing: str) -> MissingExtraError:
        """The error for one purpose, e.g. ``of("writing an ONNX graph", extra="onnx", missing="onnx")``."""
        return cls(
            purpose,
            found=f"no package {missing!r}",
            expected=f"the extra [{extra}]",
            remedy=f'Install it with: pip install "milepost[{extra}]".',
        )


class CheckpointNotFoundError(MilepostError, FileNotFoundError):
    """No such checkpoint."""


class NotACheckpointError(MilepostError, ValueError):
    """The file is not a checkpoint, or of a kind that this version does not read."""


class ReadError(MilepostError, OSError):
    """The file system does not give the file; it may be sound."""


class DamagedCheckpointError(MilepostError, ValueError):
    """The file was a checkpoint, and its bytes are no longer what was saved."""


class DecryptionError(MilepostError, ValueError):
    """An encrypted file does not open: the key or the mode is another, or its bytes are no longer what was saved."""


class SaveError(MilepostError, OSError):
    """A save did not reach its place; every earlier checkpoint is as it was."""


class RunInUseError(MilepostError, OSError):
    """A living process is at work on the run, and would have its files overwritten or removed."""


class UnsupportedStateError(MilepostError, TypeError):
    """Something in the training state cannot be stored; the path inside the state is named."""


class SnapshotError(MilepostError, RuntimeError):
    """A tensor was written to while it was being saved; such a checkpoint is not published."""


class LoadError(MilepostError, RuntimeError):
    """The file is sound, but does not fit what it is loaded into."""


class MismatchError(LoadError):
    """An entry's shape or dtype differs from its place."""


class NothingLoadedError(LoadError):
    """Not a single name of the checkpoint fits its target."""


class GraphError(MilepostError, RuntimeError):
    """A module cannot be turned into a graph."""


class TrainingError(MilepostError, ValueError):
    """A training, or `Model`, was given what it cannot go on with."""
