"""`milepost diff`, and `compare`."""

from __future__ import annotations

import math
import re

import pytest
import torch

from milepost import compare, save_checkpoint
from milepost.interop.files import open_file


@pytest.fixture
def saved(tmp_path):
    def save(name, **tensors):
        return save_checkpoint(tensors, tmp_path / f"{name}.ckpt")

    return save


def test_a_file_is_equal_to_itself(milepost, runs):
    """Exit code 0."""
    done = milepost("diff", runs / "net-1_2.ckpt", runs / "net-1_2.ckpt", "--json")
    assert (done.code, done.json["differences"]) == (0, [])
    assert re.match(r".*\nall \d+ entries are equal\n$", milepost("diff", *[runs / "net-1_2.ckpt"] * 2).out)


def test_drift_is_that_of_the_values(milepost, runs):
    """As torch computes it; the farthest first, exit code 1."""
    from milepost import load_checkpoint

    paths = runs / "net-1_2.ckpt", runs / "net-4_2.ckpt"
    done = milepost("diff", *paths, "--json")
    assert done.code == 1
    before, after = (load_checkpoint(path) for path in paths)
    for found in done.json["differences"]:
        if found["kind"] in ("parameter", "buffer"):
            a, b = (each[found["name"]].double().flatten() for each in (before, after))
            assert found["relative_l2"] == pytest.approx(((b - a).norm() / a.norm()).item(), rel=1e-9)
            assert found["cosine"] == pytest.approx(torch.cosine_similarity(a, b, dim=0).item(), rel=1e-9)
            assert found["max_abs"] == pytest.approx((b - a).abs().max().item())
            assert found["changed_share"] == pytest.approx((a != b).double().mean().item())
    distances = [found["relative_l2"] for found in done.json["differences"]]
    assert distances == sorted(distances, reverse=True)


def test_added_removed_reshaped_and_retyped_are_told(milepost, saved):
    """Each by its name, with what it was and is."""
    a = saved("a", same=torch.ones(2), gone=torch.ones(1), fc=torch.ones(10, 3), half=torch.ones(2), note="x")
    b = saved("b", same=torch.ones(2), new=torch.ones(1), fc=torch.ones(5, 3), half=torch.ones(2).half(), note="y")
    found = {each["name"]: each for each in milepost("diff", a, b, "--json").json["differences"]}
    statuses = {name: each["status"] for name, each in found.items()}
    assert statuses == {"gone": "removed", "new": "added", "fc": "reshaped", "half": "changed", "note": "changed"}
    assert (found["fc"]["before"]["shape"], found["fc"]["after"]["shape"]) == ([10, 3], [5, 3])
    assert (found["half"]["relative_l2"], found["half"]["changed_share"]) == (0.0, 0.0)
    out = milepost("diff", a, b).out
    assert "float32 10x3 -> float32 5x3" in out
    assert "half (float32 -> float16)" in out
    assert out.endswith("\n1 equal\n")


def test_lines_are_folded_and_show_the_farthest(milepost, saved):
    """Or every entry by itself, on request."""
    a = saved("a", **{f"layer{n}.w": torch.ones(4) for n in (1, 2, 3)})
    b = saved("b", **{f"layer{n}.w": torch.ones(4) + torch.tensor([n, 0, 0, 0.0]) for n in (1, 2, 3)})
    rows = [line.split() for line in milepost("diff", a, b).out.splitlines()]
    assert ["layer*.w", "3", "1.5", "0.802955", "3", "25.0", "%"] in rows
    assert "layer3.w" in milepost("diff", "--all", a, b).out


@pytest.mark.parametrize(
    ("old", "new", "drift"),
    [
        (torch.zeros(2), torch.ones(2), (math.inf, math.nan, 1.0, 1.0)),
        (torch.ones(2), torch.tensor([1.0, math.nan]), (math.nan, math.nan, math.nan, 0.5)),
        (torch.tensor([0.0, 1.0]), torch.tensor([-0.0, 1.0]), (0.0, 1.0, 0.0, 0.5)),
        (torch.tensor([3 + 4j]), torch.tensor([-3 - 4j]), (2.0, -1.0, 8.0, 1.0)),
        (torch.tensor([2**62, 1]), torch.tensor([2**62 + 1, 1]), (0.0, 1.0, 0.0, 0.5)),
        (torch.tensor([True, False]), torch.tensor([True, True]), (1.0, math.sqrt(0.5), 1.0, 0.5)),
        (torch.zeros(0), torch.zeros(0).half(), (0.0, math.nan, 0.0, 0.0)),
    ],
)
def test_values_at_the_edge_have_a_drift_too(milepost, saved, old, new, drift):
    """Nothing, everything, not a number; what JSON has no number for is null."""
    paths = saved("a", w=old), saved("b", w=new)
    with open_file(paths[0]) as before, open_file(paths[1]) as after:
        (found,) = compare(before, after)
    figures = found.drift.relative_l2, found.drift.cosine, found.drift.max_abs, found.drift.changed_share
    assert figures == pytest.approx(drift, nan_ok=True)
    assert milepost("diff", *paths).code == 1
    (facts,) = milepost("diff", *paths, "--json").json["differences"]
    assert (facts["relative_l2"] is None) == (not math.isfinite(drift[0]))


def test_blocks_make_no_difference(saved, monkeypatch):
    """Values are compared some at a time."""
    paths = saved("a", w=torch.arange(100.0)), saved("b", w=torch.arange(100.0).flip(0))
    found = []
    for block in (1, 7, 100, 1 << 20):
        monkeypatch.setattr("milepost.comparison._BLOCK", block)
        with open_file(paths[0]) as before, open_file(paths[1]) as after:
            found += [each.drift for each in compare(before, after)]
    assert all(each.relative_l2 == pytest.approx(found[0].relative_l2) for each in found)
    assert len({each.changed_share for each in found}) == 1


def test_damage_is_no_difference(milepost, runs, damaged):
    """It is an error, where the content is read."""
    done = milepost("diff", runs / "net-1_2.ckpt", damaged)
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert "head.weight" in done.err


def test_complex_values_compare_with_real_ones_and_with_wider_ones(milepost, saved):
    """A real one is one without an imaginary part; a value counts once."""
    real = saved("real", w=torch.tensor([1.0, 2.0]))
    narrow = saved("narrow", w=torch.tensor([1 + 1j, 2 + 0j]))
    wide = saved("wide", w=torch.tensor([1 + 2j, 2 + 0j], dtype=torch.complex128))
    for first, second in ((real, narrow), (narrow, real), (narrow, wide)):
        (found,) = milepost("diff", first, second, "--json").json["differences"]
        assert found["max_abs"] == 1.0
        assert found["changed_share"] == 0.5
