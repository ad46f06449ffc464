"""Saves and loads with MindSpore, in its own environment, and says what that took. Orders come as lines of JSON."""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import mindspore
import numpy as np
from mindspore import nn
from mindspore.train import serialization


class Holder(nn.Cell):  # type: ignore[misc]  # not installed where types are checked
    """A network that consists of its parameters."""

    def __init__(self, shapes: dict[str, tuple[str, list[int]]]) -> None:
        super().__init__()
        for name, (dtype, shape) in shapes.items():
            setattr(self, name, mindspore.Parameter(np.random.random(shape).astype(dtype), name=name))


def save(net: Holder, order: dict[str, Any]) -> None:
    """Save the parameters."""
    mindspore.save_checkpoint(net, order["path"])
    if order["is_durable"]:
        for path in (order["path"], os.path.dirname(order["path"])):
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.close(descriptor)


def load(net: Holder, order: dict[str, Any]) -> None:
    """Load them into the network."""
    mindspore.load_param_into_net(net, mindspore.load_checkpoint(order["path"]))


def cost(act: Callable[[], object]) -> dict[str, float]:
    """Do it; return seconds, processor time, and the highest memory less what was held before."""
    Path("/proc/self/clear_refs").write_text("5")
    before, cpu, began = memory("VmRSS"), cpu_seconds(), time.perf_counter()
    act()
    seconds = time.perf_counter() - began
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds() - cpu,
        "extra_nbytes": max(0, memory("VmHWM") - before),
    }


def cpu_seconds() -> float:
    """Processor time so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def memory(key: str) -> int:
    """A line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def main() -> None:
    """Answer orders until there are no more; the first says what the parameters are."""
    # It refuses a file that is larger than what memory is free, and takes the page cache for memory that is not.
    serialization._get_available_memory = lambda: None
    net = Holder({})
    for line in sys.stdin:
        order = json.loads(line)
        if order["do"] == "make":
            net = Holder(order["shapes"])
            answer: dict[str, float] = {}
        else:
            answer = cost(partial({"save": save, "load": load}[order["do"]], net, order))
        print("answer " + json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
