"""What a file may say about a training: numbers, counts and metrics, checked before they are believed. No files."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from typing import Any


def is_object(value: object) -> bool:
    """Whether it is an object of JSON."""
    return isinstance(value, dict)


def is_count(value: object) -> bool:
    """Whether it is a whole number from 0."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_number(value: object) -> bool:
    """Whether it is a number that a float can hold."""
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def are_metrics(value: object) -> bool:
    """Whether it is what `metrics_to_json` returns."""
    return isinstance(value, dict) and all(
        each in ("nan", "inf", "-inf") if isinstance(each, str) else is_number(each) for each in value.values()
    )


def metrics_to_json(metrics: Mapping[str, float]) -> dict[str, float | str]:
    """Return metrics as JSON has them: it has no number for a loss that diverged, which is still worth telling.

    >>> metrics_to_json({"loss": float("inf"), "accuracy": 0.5})
    {'loss': 'inf', 'accuracy': 0.5}
    """
    floats = {name: float(value) for name, value in metrics.items()}
    return {name: value if math.isfinite(value) else str(value) for name, value in floats.items()}


def metrics_of_json(value: Mapping[str, Any]) -> dict[str, float]:
    """Return the metrics that are written as `value`, for which `are_metrics` is true."""
    return {name: float(each) for name, each in value.items()}
