"""What an export of ResNet-50 costs, each in a process of its own. What is written is not known here."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.harness import Cost, Options, Section, Table, Target, Way, cpu_seconds, measure, peak_nbytes, reset_peak

EXAMPLES = Path(__file__).parents[1] / "examples"
SUFFIXES = {"ONNX": ".onnx", "GEIR": ".air", "MINDIR": ".mindir", "PT2": ".pt2"}


def run(options: Options) -> Section:
    """Export in turns; the memory is what comes above the module."""
    weights = json.loads(_run("weights", options.folder))
    ways = [Way(name, lambda name=name: _cost(name, options.folder), has_memory=False) for name in SUFFIXES]  # type: ignore[misc]
    results = measure(ways, options.rounds(5), warm_up=0)
    geir, onnx = results["GEIR"], results["ONNX"]
    memory, cpu = geir.extra_nbytes / weights, geir.cpu_seconds / onnx.cpu_seconds
    targets = [
        Target("memory of an export of ResNet-50 to GEIR, above the module's, to its weights", 2, memory),
        Target("CPU time of an export of ResNet-50 to GEIR, to that of its export to ONNX", 1, cpu),
    ]
    title = f"ResNet-50 ({weights / 2**20:.0f} MiB), exported and verified"
    return Section("Exports", [Table(title, "ONNX", results)], targets)


def _cost(name: str, folder: Path) -> Cost:
    return Cost(*json.loads(_run(name, folder)))


def _run(what: str, folder: Path) -> str:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.exporting", what, str(folder)]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=EXAMPLES.parent).stdout


def main(what: str, folder: Path) -> None:
    """In a fresh process: print the module's bytes, or what one export costs once everything is imported."""
    sys.path.append(str(EXAMPLES))
    import torch
    from torch import nn

    from milepost import export
    from resnet50 import Bottleneck, ResNet50

    net, image = ResNet50().eval(), torch.zeros(2, 1, 32, 32)
    weights = sum(tensor.nbytes for tensor in net.state_dict().values())
    if what == "weights":
        print(weights)
        return
    suffix = SUFFIXES[what]
    first = nn.Sequential(nn.Conv2d(1, 64, 1), Bottleneck(64, 16, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    export(first.eval(), image, file_name=folder / f"first{suffix}")  # what is imported and compiled once
    net(image)
    reset_peak()
    before, began, cpu = peak_nbytes(), time.perf_counter(), cpu_seconds()
    export(net, image, file_name=folder / f"resnet50{suffix}")
    print(json.dumps([time.perf_counter() - began, cpu_seconds() - cpu, peak_nbytes() - before]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
