"""`milepost export`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from milepost import load_checkpoint, save_checkpoint
from milepost.cli.export import FORMATS
from milepost.graphs import formats, graph_meta

MODEL = """
import torch
from torch import nn

def example():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.zeros(3, 4)

def larger():
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Linear(2, 2)), torch.zeros(3, 4)

def alone():
    return nn.Linear(4, 8)

def fails():
    raise ValueError("no\\nsuch thing")
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a module, a checkpoint of its network, and the network's graph; it is the current one."""
    (tmp_path / "some_model.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "some_model", raising=False)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2))
    save_checkpoint(net, "net.ckpt")
    return net


def outputs(path, x):
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]


def test_a_graph_and_a_checkpoint_become_onnx(milepost, here, tmp_path):
    """Without any Python code of the network; what onnxruntime computes is what the network does."""
    (tmp_path / "net-graph.meta").write_bytes(graph_meta(here, torch.zeros(1, 4)))
    done = milepost("export", "net-graph.meta", "net.ckpt", "-o", "net.onnx", "--json")
    assert (done.code, done.json["output"]) == (0, "net.onnx")
    x = torch.randn(5, 4)
    np.testing.assert_allclose(outputs("net.onnx", x), here(x).detach().numpy(), atol=1e-5)


def test_a_function_and_a_checkpoint_become_what_the_suffix_says(milepost, here):
    """The function gives the network and an example; its weights are those of the checkpoint."""
    done = milepost("export", "some_model:example", "net.ckpt", "-o", "net.pt2")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("net.pt2: ")
    exported = torch.export.load("net.pt2").module()
    x = torch.randn(5, 4)
    torch.testing.assert_close(exported(x), here(x))


def test_the_formats_are_those_that_export_has():
    """The command line has a list of its own, which does not import torch."""
    assert set(FORMATS) == set(formats.FORMATS)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("some_model:larger", "nothing for 3.weight, 3.bias"),
        ("some_model:alone", "returns Linear"),
        ("some_model:fails", "ValueError: no such thing"),
        ("some_model:missing", "no attribute 'missing'"),
        ("no_such_model:example", "No module named 'no_such_model'"),
        ("some_model:", "AttributeError"),
        (":example", "ValueError"),
        ("missing-graph.meta", "no such file"),
        ("some_model", "no such file"),
        ("net.ckpt", "found"),
    ],
)
def test_what_cannot_be_exported_is_one_line(milepost, here, tmp_path, model, said):
    """Nothing is written."""
    done = milepost("export", model, "net.ckpt", "-o", "net.onnx")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert said in done.err
    assert not (tmp_path / "net.onnx").exists()


def test_a_damaged_checkpoint_is_not_exported(milepost, here, tmp_path, place_of):
    """Neither is one that is missing."""
    content = bytearray((tmp_path / "net.ckpt").read_bytes())
    content[place_of(tmp_path / "net.ckpt", "0.weight")] ^= 1
    (tmp_path / "bad.ckpt").write_bytes(content)
    for path in ("bad.ckpt", "missing.ckpt"):
        done = milepost("export", "some_model:example", path, "-o", "net.onnx")
        assert (done.code, len(done.err.splitlines()), (tmp_path / "net.onnx").exists()) == (2, 1, False)


def test_a_format_can_be_named(milepost, here):
    """In any case; a suffix that others use is kept, with a warning of one line."""
    done = milepost("export", "some_model:example", "net.ckpt", "-o", "net.bin", "--format", "pt2")
    assert done.code == 0
    assert done.err.startswith("milepost: warning: net.bin")
    assert load_checkpoint("net.ckpt")["0.weight"].shape == (8, 4)


def test_an_encrypted_checkpoint_is_exported_with_its_graph_and_key(milepost, here, tmp_path):
    """As every command opens it."""
    (tmp_path / "key").write_bytes(b"0123456789abcdef")
    (tmp_path / "net-graph.meta").write_bytes(graph_meta(here, torch.zeros(3, 4)))
    save_checkpoint(here, "sealed.ckpt", enc_key=b"0123456789abcdef")
    command = ["export", "net-graph.meta", "sealed.ckpt", "-o", "net.onnx"]
    assert milepost(*command).code == 2
    assert milepost(*command, "--dec-key-file", tmp_path / "key").code == 0
    x = torch.randn(3, 4)
    np.testing.assert_allclose(outputs("net.onnx", x), here(x).detach().numpy(), atol=1e-5)
