"""What files are called: names as values, and one grammar for their text. Which files exist is not known here.

    checkpoint  <prefix>[_<run>]-<epoch>_<step>[_<suffix>].ckpt    resnet50_3-2_32.ckpt
    graph       <prefix>[_<run>]-graph.meta                        resnet50_3-graph.meta
    best        <prefix>[_<run>]-best.ckpt                         resnet50_3-best.ckpt
    metrics     <prefix>[_<run>]-metrics.json                      resnet50_3-metrics.json

The first run has no number, the second is ``_2``, as in MindSpore's tutorial "Saving and Loading Model Parameters".
Numbers are ASCII digits without leading zeros, so that two texts never mean one name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from milepost.errors import SettingError, SettingTypeError

BREAKPOINT = "breakpoint"
"""The suffix of a file that was saved because the training was cut off."""

# Numbers of 18 digits, a suffix of 16 letters and what a temporary name adds still fit in the 255 bytes that file
# systems give a name.
MAX_PREFIX_NBYTES = 128

# Separators, and what Windows, SMB shares and FAT-formatted disks refuse.
_FORBIDDEN = frozenset('/\\:*?"<>|')

_GRAPH = "-graph.meta"
_BEST = "-best.ckpt"
_METRICS = "-metrics.json"
_NUMBER = "0|[1-9][0-9]{0,17}"
_RUN = "_(?P<run>[2-9]|[1-9][0-9]{1,17})"
_AFTER_PREFIX = re.compile(
    f"(?:{_RUN})?"
    f"-(?P<epoch>{_NUMBER})_(?P<step>{_NUMBER})"
    r"(?:_(?P<suffix>[a-z]{1,16}))?\.ckpt"
)
_WITH_STEM = re.compile(rf"(?P<stem>.+?)-(?:{_NUMBER})_(?:{_NUMBER})(?:_[a-z]{{1,16}})?\.ckpt", re.DOTALL)


@dataclass(frozen=True, slots=True)
class CheckpointName:
    """A checkpoint file's name, in its parts.

    Args:
        prefix: What the user calls the training; see `check_prefix`.
        run: Ordinal of the run, from 1.
        epoch: The epoch the file was saved in.
        step: The step within that epoch.
        suffix: `BREAKPOINT`, or empty. Lower-case letters.

    Raises:
        SettingError: A part that has no place in a name.

    Example:
        >>> CheckpointName("resnet50", run=3, epoch=2, step=32).text
        'resnet50_3-2_32.ckpt'
        >>> CheckpointName("resnet50", run=1, epoch=2, step=32, suffix=BREAKPOINT).text
        'resnet50-2_32_breakpoint.ckpt'
    """

    prefix: str
    run: int
    epoch: int
    step: int
    suffix: str = ""

    def __post_init__(self) -> None:
        check_prefix(self.prefix)
        if _AFTER_PREFIX.fullmatch(self.text, len(self.prefix)) is None:
            raise SettingError(
                "checkpoint name",
                found=f"{self.text!r}",
                expected="a run from 1, an epoch and a step from 0, and a suffix of lower-case letters",
                remedy="Check the numbers that the name is made from.",
            )

    @property
    def stem(self) -> str:
        """What all files of the run begin with, e.g. ``resnet50_3``."""
        return stem(self.prefix, self.run)

    @property
    def text(self) -> str:
        """The file's name."""
        suffix = f"_{self.suffix}" if self.suffix else ""
        return f"{self.stem}-{self.epoch}_{self.step}{suffix}.ckpt"


def stem(prefix: str, run: int) -> str:
    """Return what all files of a run begin with: the prefix, and the run's number from the second run on."""
    return prefix if run == 1 else f"{prefix}_{run}"


def graph_name(prefix: str, run: int) -> str:
    """Return the name of the file that holds the run's graph.

    >>> graph_name("resnet50", 3)
    'resnet50_3-graph.meta'
    """
    return f"{stem(prefix, run)}{_GRAPH}"


def best_name(prefix: str, run: int) -> str:
    """Return the other name of the run's best checkpoint.

    >>> best_name("resnet50", 3)
    'resnet50_3-best.ckpt'
    """
    return f"{stem(prefix, run)}{_BEST}"


def metrics_name(prefix: str, run: int) -> str:
    """Return the name of the file that holds what was measured in the run.

    >>> metrics_name("resnet50", 3)
    'resnet50_3-metrics.json'
    """
    return f"{stem(prefix, run)}{_METRICS}"


def beside(prefix: str, run: int) -> set[str]:
    """Return the names of all files that a run has beside its checkpoints."""
    return {graph_name(prefix, run), best_name(prefix, run), metrics_name(prefix, run)}


def parse(text: str, prefix: str) -> CheckpointName | None:
    """Return the parts of the file name `text`, or None if no checkpoint with this prefix can be called so.

    ``a_2-1_5.ckpt`` is the second run of ``a`` and the first of ``a_2``; which of them it is, only the file knows.

    >>> parse("a_2-1_5.ckpt", "a")
    CheckpointName(prefix='a', run=2, epoch=1, step=5, suffix='')
    >>> parse("a_2-1_5.ckpt", "a_2")
    CheckpointName(prefix='a_2', run=1, epoch=1, step=5, suffix='')
    >>> parse("resnet50v2-1_5.ckpt", "resnet50")
    """
    match = _AFTER_PREFIX.fullmatch(text, len(prefix)) if text.startswith(prefix) else None
    if match is None:
        return None
    return CheckpointName(
        prefix, int(match["run"] or 1), int(match["epoch"]), int(match["step"]), match["suffix"] or ""
    )


def prefixes(text: str) -> list[str]:
    """Return the prefixes with which a checkpoint can be called `text`, the shortest first.

    >>> prefixes("a_2-1_5.ckpt"), prefixes("a-1_5_breakpoint.ckpt"), prefixes("a.ckpt")
    (['a', 'a_2'], ['a'], [])
    """
    match = _WITH_STEM.fullmatch(text)
    if match is None:
        return []
    found = [re.sub(f"{_RUN}$", "", match["stem"]), match["stem"]]
    return [prefix for prefix in dict.fromkeys(found) if not _problem(prefix)]


def is_of(text: str, prefix: str) -> bool:
    """Whether a run with this prefix can have a checkpoint or another file called `text`.

    >>> [is_of(text, "a") for text in ("a-1_5.ckpt", "a_2-graph.meta", "a-best.ckpt", "a-b-graph.meta")]
    [True, True, True, False]
    """
    # The other files are named as the checkpoints of their run are, but for the end.
    endings = [ending for ending in (_GRAPH, _BEST, _METRICS) if text.endswith(ending)]
    candidates = [text, *(f"{text.removesuffix(ending)}-0_0.ckpt" for ending in endings)]
    return any(parse(candidate, prefix) is not None for candidate in candidates)


def check_prefix(prefix: object) -> str:
    """Return `prefix` if files can be named with it, on every common file system.

    Raises:
        SettingTypeError: It is not a str.
        SettingError: It is empty, too long, begins with a dot, or holds a separator or an unprintable character.
    """
    if not isinstance(prefix, str):
        raise SettingTypeError(
            "prefix", found=f"{prefix!r}", expected="a str", remedy="Give a name, e.g. prefix='resnet50'."
        )
    problem = _problem(prefix)
    if problem:
        raise SettingError(
            "prefix",
            found=f"{prefix!r}, {problem}",
            expected="the beginning of a file name",
            remedy="Give a plain name, e.g. prefix='resnet50', and the folder as the directory.",
        )
    return prefix


def _problem(prefix: str) -> str | None:
    if not prefix:
        return "which is empty"
    if prefix.startswith("."):
        return "which would make hidden files"
    # Also refuses lone surrogates, which cannot be encoded, so that the length in bytes below exists.
    unusable = [character for character in prefix if character in _FORBIDDEN or not character.isprintable()]
    if unusable:
        return f"which holds {unusable[0]!r}"
    if len(prefix.encode()) > MAX_PREFIX_NBYTES:
        return f"which is longer than {MAX_PREFIX_NBYTES} bytes"
    return None
