"""`milepost show`, and the statistics behind it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from milepost import load_checkpoint, save_checkpoint
from milepost.statistics import describe


@pytest.fixture
def weights(tmp_path):
    tensors = {
        "w": torch.arange(24, dtype=torch.float32).reshape(4, 6),
        "half": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "bad": torch.tensor([1.0, math.nan, math.inf, -math.inf, 0.0]),
        "same": torch.zeros(3),
        "none": torch.zeros(0, 3),
        "wave": torch.tensor([3 + 4j]),
        "count": torch.tensor(2**62),
        "note": "warm\x1b[1m",
    }
    return save_checkpoint(tensors, tmp_path / "weights.ckpt")


def test_statistics_are_those_of_the_values(milepost, runs):
    """As torch computes them from the loaded tensor."""
    path = runs / "net-2_2.ckpt"
    found = milepost("show", path, "head.weight", "--json").json["statistics"]
    tensor = load_checkpoint(path)["head.weight"].double()
    assert found["count"] == tensor.numel()
    assert found["mean"] == pytest.approx(tensor.mean().item())
    assert found["deviation"] == pytest.approx(tensor.std(correction=0).item())
    assert found["norm"] == pytest.approx(tensor.norm().item())
    assert (found["minimum"], found["maximum"]) == (tensor.min().item(), tensor.max().item())
    assert sum(found["counts"]) == tensor.numel()


def test_a_person_sees_figures_and_a_histogram(milepost, weights):
    """Each bin a line."""
    out = milepost("show", weights, "w").out
    assert "parameter of " in out
    assert "float32, 4x6, 96 B" in out
    bins = [line.split() for line in out.splitlines() if "█" in line]
    assert [int(each[2]) for each in bins] == [2] * 12


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0, :5", [0, 1, 2, 3, 4]),
        ("-1", [18, 19, 20, 21, 22, 23]),
        ("::2, 1:4:2", [[1, 3], [13, 15]]),
        (" 1 , 2 ", 8),
        (":, -1", [5, 11, 17, 23]),
    ],
)
def test_slices_are_numpys(milepost, weights, text, expected):
    """Numbers and ranges for each dimension."""
    assert milepost("show", weights, "w", "--slice", text, "--json").json["values"] == expected


@pytest.mark.parametrize("text", ["9", "0,0,0", "x", "", "0;1", "::0", "None", "__import__('os')"])
def test_a_slice_that_does_not_fit_is_refused(milepost, weights, text):
    """In one line, and nothing is evaluated."""
    done = milepost("show", weights, "w", "--slice", text)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert "the shape 4x6" in done.err


def test_values_that_are_not_finite_are_counted_and_left_out(milepost, weights):
    """Figures are those of the rest."""
    found = milepost("show", weights, "bad", "--slice", ":4", "--json").json
    statistics = found["statistics"]
    assert (statistics["nans"], statistics["infinities"], statistics["zeros"]) == (1, 2, 1)
    assert (statistics["mean"], statistics["maximum"]) == (0.5, 1.0)
    assert found["values"] == [1.0, "nan", "inf", "-inf"]
    assert "infinite" in milepost("show", weights, "bad").out


@pytest.mark.parametrize("name", ["half", "same", "none", "wave", "count"])
def test_every_kind_of_tensor_can_be_shown(milepost, weights, name):
    """Also where there is nothing to draw."""
    assert milepost("show", weights, name).code == 0
    assert milepost("show", weights, name, "--json").json["statistics"]["count"] >= 0


def test_values_keep_their_meaning(milepost, weights):
    """A bfloat16, a complex number, a whole number beyond a double."""
    shown = {
        name: milepost("show", weights, name, "--slice", ":", "--json").json["values"] for name in ("half", "wave")
    }
    assert shown == {"half": [1.5, -2.0], "wave": [[3.0, 4.0]]}
    assert milepost("show", weights, "wave", "--json").json["statistics"]["mean"] == 5.0


def test_a_text_is_shown_as_it_is_and_cannot_steer_the_terminal(milepost, weights):
    """In the JSON as it is; on the screen spelled out."""
    assert milepost("show", weights, "note", "--json").json["text"] == "warm\x1b[1m"
    assert "warm\\x1b[1m" in milepost("show", weights, "note").out


def test_a_name_that_is_not_there_gets_the_nearest(milepost, weights):
    """Names are long, and typing errors small."""
    done = milepost("show", weights, "cuont")
    assert done.code == 2
    assert "expected one like count" in done.err
    assert "names" in milepost("show", weights, "????????").err


def test_damage_is_an_error(milepost, damaged):
    """Nothing of a content that is not what was saved is shown."""
    done = milepost("show", damaged, "head.weight")
    assert (done.code, done.out) == (2, "")
    assert milepost("show", damaged, "head.bias").code == 0


def test_large_values_do_not_overflow():
    """Their squares would."""
    found = describe(np.array([1e300, -1e300]))
    assert found.norm == pytest.approx(math.sqrt(2) * 1e300)
    assert found.deviation == pytest.approx(1e300)


@pytest.mark.parametrize(
    "values",
    [
        np.array([np.finfo(np.float64).min, 0.0]),
        np.array([1.0, 1.0 + 2.3e-16]),
        np.array([2**60, 2**60 + 256]),
    ],
    ids=["the largest", "almost equal", "almost equal whole numbers"],
)
def test_values_at_the_edge_of_doubles_have_statistics(values):
    """A mask's lowest number, and differences that a histogram has no room for."""
    found = describe(values)
    assert (found.count, found.minimum, found.maximum) == (2, float(values.min()), float(values.max()))
