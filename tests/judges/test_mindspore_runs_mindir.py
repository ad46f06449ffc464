"""Real MindSpore 2.10.0 on the CPU computes what the module does, from the MindIR file alone."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.graphs import calls, zoo

from milepost.graphs import mindir

pytestmark = pytest.mark.slow

RUNNER = Path(__file__).with_name("run_with_mindspore.py")
TRACES = {
    "resnet50": zoo.resnet50,
    **{f"zoo {name}": (lambda name=name: zoo.traced(name)) for name in zoo.ZOO},
    **{f"call {name}": (lambda name=name: calls.traced(name)) for name in calls.CALLS},
}


@pytest.fixture(scope="module")
def judged(tmp_path_factory, mindspore_python):
    """What MindSpore found in each file, and the folder with its results; one process for all, for it starts slowly."""
    folder = tmp_path_factory.mktemp("mindir")
    for name, trace in TRACES.items():
        _, inputs, traced = trace()
        (folder / f"{name}.mindir").write_bytes(b"".join(mindir.pieces_of(traced).contents()))
        arrays = {f"{number:02}": tensor.numpy() for number, tensor in enumerate(inputs)}
        np.savez(folder / f"{name}-inputs.npz", **arrays)
    command = [mindspore_python, RUNNER, folder]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder, json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", TRACES)
def test_mindspore_computes_what_the_module_does(name, judged):
    """To 1e-5 of the largest value of each result, with its shape and dtype; the parameters are the module's bytes."""
    folder, found = judged
    assert "error" not in found[name], found[name]
    net, inputs, traced = TRACES[name]()
    with torch.no_grad():
        wanted = net(*inputs)
    wanted = wanted if isinstance(wanted, tuple) else (wanted,)
    with np.load(folder / f"{name}-results.npz") as file:
        results = [torch.from_numpy(file[key]) for key in sorted(file)]
    for one, other in zip(results, wanted, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        one, other = one.double(), other.double()
        torch.testing.assert_close(one, other, rtol=0, atol=1e-5 * float(other.abs().max()))
    weights = {key: tensor.detach().numpy().tobytes() for key, tensor in traced.weights.items()}
    assert found[name]["parameters"] == {key: hashlib.sha256(value).hexdigest() for key, value in weights.items()}
