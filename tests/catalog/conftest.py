"""Checkpoints to find: the smallest there are, with any metadata."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest

from milepost.engine.writer import write
from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec
from milepost.storage.base import Storage


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[[Storage, str, Mapping[str, object]], None]:
    arrays = [Array(ArraySpec("w", "int8", (1,)), "parameter", lambda: memoryview(b"\x07"))]
    return lambda storage, name, metadata: write(storage, name, plan(arrays, metadata, {}))
