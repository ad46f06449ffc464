"""Runs MindIR files with real MindSpore on the CPU. Argument: a folder of `<name>.mindir` and `<name>-inputs.npz`.

Writes the results of each to `<name>-results.npz`, and prints as JSON, by file, the parameters' names with the SHA-256
of their bytes, or `{"error": "..."}`. Runs in MindSpore's own environment; knows nothing of Milepost.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import mindspore
import numpy as np


def run(path: Path) -> dict[str, object]:
    """Load one file and compute it."""
    with np.load(path.with_name(f"{path.stem}-inputs.npz")) as file:
        inputs = [mindspore.Tensor(file[name]) for name in sorted(file)]
    try:
        cell = mindspore.nn.GraphCell(mindspore.load(str(path)))
        results = cell(*inputs)
    except Exception as error:  # whatever it is, it is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    results = results if isinstance(results, tuple) else (results,)
    arrays = {f"{number:02}": result.asnumpy() for number, result in enumerate(results)}
    np.savez(path.with_name(f"{path.stem}-results.npz"), **arrays)
    parameters = cell.parameters_dict().items()
    return {"parameters": {name: hashlib.sha256(value.asnumpy().tobytes()).hexdigest() for name, value in parameters}}


if __name__ == "__main__":
    mindspore.set_context(mode=mindspore.GRAPH_MODE)
    print("\n" + json.dumps({path.stem: run(path) for path in sorted(Path(sys.argv[1]).glob("*.mindir"))}))
