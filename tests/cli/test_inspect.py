"""`milepost inspect`."""

from __future__ import annotations

import pytest

from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec


def test_every_entry_is_in_the_json(milepost, runs):
    """With kind, dtype, shape, size and checksum, and the metadata as it is."""
    facts = milepost("inspect", runs / "net-2_2.ckpt", "--json").json
    by_name = {each["name"]: each for each in facts["entries"]}
    assert by_name["head.weight"] == {
        "name": "head.weight", "kind": "parameter", "dtype": "float32", "shape": [2, 8], "nbytes": 64,
        "checksum": by_name["head.weight"]["checksum"],
    }  # fmt: skip
    assert by_name["optimizer.head.weight.momentum_buffer"]["kind"] == "optimizer"
    assert facts["container"] == "milepost ckpt"
    assert facts["metadata"]["writer"].startswith("milepost ")
    assert facts["metadata"]["epoch"] == 2


def test_a_person_sees_where_the_training_stood_and_names_folded(milepost, runs):
    """What differs in numbers only is one line, with the range of its shapes."""
    out = milepost("inspect", runs / "net-2_2.ckpt").out
    assert "epoch 2, step 2 of 2; 4 steps in all" in out
    assert "optimizer (SGD)" in out
    lines = [line.split() for line in out.splitlines()]
    assert ["weight", "2", "float32", "8x4..8", "384", "B"] in [line[:6] for line in lines]
    assert ["parameter", "8"] in [line[:2] for line in lines]


def test_nothing_is_folded_on_request(milepost, runs):
    """Every name can be found with grep."""
    lines = [line.split() for line in milepost("inspect", "--all", runs / "net-2_2.ckpt").out.splitlines()]
    assert ["layers.0.weight", "parameter", "float32", "8x4", "128", "B"] in [line[:6] for line in lines]


def test_further_names_are_shown(milepost, tmp_path):
    """Tied weights are one entry with two names."""
    array = Array(ArraySpec("w", "int8", (1,)), "parameter", lambda: memoryview(b"\x07"))
    (tmp_path / "a.ckpt").write_bytes(b"".join(plan([array], {}, {"tied": "w"}).chunks()))
    assert milepost("inspect", tmp_path / "a.ckpt", "--json").json["aliases"] == {"tied": "w"}
    assert "the same as w" in milepost("inspect", "--all", tmp_path / "a.ckpt").out


@pytest.mark.parametrize(
    "facts",
    [
        {"writer": 7, "time": "x", "run": 3, "epoch": -1, "metrics": [1], "state": []},
        {
            "time": 1e300,
            "metrics": {"a": "nan"},
            "state": {"objects": 3, "optimizer": {"class": 5}},
            "more": {"a": [1]},
        },
        {"time": -5, "run": {}, "epoch": 1, "state": {"objects": {"a": None}}},
    ],
)
def test_metadata_of_another_shape_is_no_trouble(milepost, tmp_path, facts):
    """Anybody can have written it."""
    array = Array(ArraySpec("w", "int8", (1,)), "parameter", lambda: memoryview(b"\x07"))
    (tmp_path / "a.ckpt").write_bytes(b"".join(plan([array], facts, {}).chunks()))
    assert milepost("inspect", tmp_path / "a.ckpt").code == 0
    assert milepost("inspect", tmp_path / "a.ckpt", "--json").json["metadata"] == facts


def test_a_name_cannot_steer_the_terminal(milepost, tmp_path):
    """What is unprintable is spelled out."""
    array = Array(ArraySpec("w\x1b[2J", "int8", (1,)), "parameter", lambda: memoryview(b"\x07"))
    (tmp_path / "a.ckpt").write_bytes(b"".join(plan([array], {"note\x1b[1m": "\x07"}, {}).chunks()))
    for arguments in (["--all"], []):
        out = milepost("inspect", tmp_path / "a.ckpt", *arguments).out
        assert "w\\x1b[2J" in out
        assert "\x1b" not in out
