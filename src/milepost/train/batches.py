"""What a data set gives, and what it fails to give. Batches are not drawn here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from torch import Tensor

from milepost.errors import TrainingError
from milepost.progress import used_up
from milepost.train.devices import map_leaves


def arguments(inputs: Any) -> Sequence[Any]:
    """A network's arguments, from one or several."""
    return inputs if isinstance(inputs, tuple | list) else (inputs,)


def count_samples(batch: Any) -> int:
    """Samples in a batch: the length of its first tensor."""
    sizes: list[int] = []
    map_leaves(lambda leaf: sizes.append(len(leaf)) if isinstance(leaf, Tensor) and leaf.ndim else None, batch)
    return sizes[0] if sizes else 1


def length(dataset: Iterable[Any]) -> int | None:
    """Batches in a data set, or None where it has no length."""
    try:
        return len(dataset)  # type: ignore[arg-type]
    except TypeError:  # also from a DataLoader over a stream
        return None


def no_batches(dataset: Iterable[Any]) -> TrainingError:
    """The error for an epoch without a batch."""
    if iter(dataset) is dataset:
        return used_up()
    return TrainingError(
        "the data set",
        found="no batch",
        expected="one or more",
        remedy="Look whether it is empty, or smaller than one batch with drop_last=True.",
    )
