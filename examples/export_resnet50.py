"""Train ResNet-50 a little, export a checkpoint in every format, and have each file judged by other software."""

from __future__ import annotations

import argparse
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnxruntime
import torch
from torch import Tensor

from digits import create_dataset
from milepost import CheckpointConfig, Model, ModelCheckpoint, export, load_checkpoint, load_model
from milepost.graphs import geir, mindir
from milepost.nn import CrossEntropyLoss
from resnet50 import ResNet50

MINDSPORE = Path(os.environ.get("MILEPOST_MINDSPORE_PYTHON", ".venv-mindspore/bin/python"))
"""A Python that has MindSpore; `make test-slow` installs one."""

RUN_MINDIR = """
import sys, mindspore, numpy
net = mindspore.nn.GraphCell(mindspore.load(sys.argv[1]))
numpy.save(sys.argv[3], net(mindspore.Tensor(numpy.load(sys.argv[2]))).asnumpy())
"""


class Row(NamedTuple):
    """A line of the table: `difference` is the largest of all logits', relative to the largest logit."""

    format: str
    file: Path
    judge: str
    difference: float


def main(directory: Path, steps: int = 8) -> list[Row]:
    """Train, export, judge, and print the table."""
    torch.manual_seed(1)
    net = ResNet50()
    model = Model(net, CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9))
    saver = ModelCheckpoint("resnet50", directory, CheckpointConfig(save_checkpoint_steps=steps))
    model.train(1, create_dataset(None, 16, train=True, limit=16 * steps), callbacks=[saver])
    checkpoint = Path(saver.latest_ckpt_file_name or "")

    net = ResNet50()
    load_checkpoint(checkpoint, net=net)
    images = next(iter(create_dataset(None, 8, train=False)))[0]
    with torch.no_grad():
        wanted = net.eval()(images)

    rows = []
    for name, suffix, judge, run in judges():
        path = export(net, images, file_name=checkpoint.with_suffix(suffix))
        rows.append(Row(name, path, judge, difference(run(path, images), wanted)))
    graph = directory / "resnet50-graph.meta"
    logits = load_model(graph, checkpoint)(images)
    rows.append(Row("META", graph, "onnxruntime, with the .ckpt", difference(logits, wanted)))
    print(table(rows))
    return rows


def judges() -> list[tuple[str, str, str, Callable[[Path, Tensor], Any]]]:
    """The formats, each with its suffix, its judge's name, and what computes the logits."""
    mindir = ("MindSpore", run_mindir) if MINDSPORE.exists() else ("Milepost's interpreter", interpret_mindir)
    return [
        ("ONNX", ".onnx", "onnxruntime", run_onnx),
        ("GEIR", ".air", "Milepost's interpreter", interpret_geir),  # ATC needs Ascend's software
        ("MINDIR", ".mindir", *mindir),
        ("PT2", ".pt2", "torch", run_pt2),
    ]


def difference(found: Any, wanted: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest value."""
    return float((found - wanted).abs().max() / wanted.abs().max())


def interpret_geir(path: Path, images: Tensor) -> Tensor:
    """Compute the logits by the reference interpreter."""
    return geir.run(geir.load(path), [images])[0]


def interpret_mindir(path: Path, images: Tensor) -> Tensor:
    """Compute the logits by the reference interpreter."""
    return mindir.run(mindir.parse(path.read_bytes(), path.name), [images])[0]


def run_pt2(path: Path, images: Tensor) -> Any:
    """Compute the logits by torch."""
    return torch.export.load(path).module()(images).detach()


def run_onnx(path: Path, images: Tensor) -> Tensor:
    """Compute the logits by onnxruntime."""
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    return torch.from_numpy(logits)


def run_mindir(path: Path, images: Tensor) -> Tensor:
    """Compute the logits by MindSpore, in its own environment."""
    given, found = path.with_suffix(".images.npy"), path.with_suffix(".logits.npy")
    np.save(given, images.numpy())
    try:
        subprocess.run([MINDSPORE, "-c", RUN_MINDIR, path, given, found], check=True, capture_output=True)
        return torch.from_numpy(np.load(found))
    finally:
        given.unlink()
        found.unlink(missing_ok=True)


def table(rows: list[Row]) -> str:
    """The rows, aligned."""
    lines = [("format", "file", "size", "judge", "largest relative difference")]
    for row in rows:
        size = f"{row.file.stat().st_size / 1e6:.1f} MB"
        lines.append((row.format, row.file.name, size, row.judge, f"{row.difference:.1e}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--directory", type=Path, default=Path("runs/export_resnet50"))
    main(parser.parse_args().directory)
