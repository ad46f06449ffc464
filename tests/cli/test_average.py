"""`milepost average`, and the function of that name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from milepost import load_checkpoint, save_checkpoint


@pytest.fixture
def saved(tmp_path):
    def save(name, **tensors):
        return save_checkpoint(tensors, tmp_path / f"{name}.ckpt")

    return save


def test_the_average_is_that_of_the_weights(milepost, runs, tmp_path):
    """As torch computes it in double precision; the file is a network, and sound."""
    paths = [runs / f"net-{epoch}_2.ckpt" for epoch in (2, 3, 4)]
    done = milepost("average", *paths, "-o", tmp_path / "soup.ckpt", "--json")
    assert done.code == 0
    soup, files = load_checkpoint(tmp_path / "soup.ckpt"), [load_checkpoint(path) for path in paths]
    assert set(soup) == {name for name in files[0] if files[0].kind(name) in ("parameter", "buffer")}
    for name in done.json["averaged"]:
        expected = torch.stack([file[name].double() for file in files]).mean(0)
        torch.testing.assert_close(soup[name].double(), expected, rtol=1e-7, atol=1e-9)
        assert soup.kind(name) == files[0].kind(name)
    assert done.json["taken"] == ["layers.1.num_batches_tracked"]
    assert soup["layers.1.num_batches_tracked"] == files[-1]["layers.1.num_batches_tracked"]
    assert any(name.startswith("optimizer.") for name in done.json["left_out"])
    assert soup.metadata["average_of"] == [path.name for path in paths]
    assert milepost("verify", tmp_path / "soup.ckpt").code == 0


def test_a_person_is_told_what_was_not_averaged(milepost, runs, tmp_path):
    """By name."""
    out = milepost("average", runs / "net-1_2.ckpt", runs / "net-2_2.ckpt", "-o", tmp_path / "soup.ckpt").out
    assert "those of " in out
    assert "layers.1.num_batches_tracked" in out
    assert "left out: optimizer and random state" in out


def test_the_soup_is_loaded_into_its_network(milepost, tmp_path):
    """Tied weights are tied in it."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 2)
            self.b.weight = self.a.weight

    nets = [Tied(), Tied()]
    paths = [save_checkpoint(net, tmp_path / f"{place}.ckpt") for place, net in enumerate(nets)]
    assert milepost("average", *paths, "-o", tmp_path / "soup.ckpt").code == 0
    net = Tied()
    load_checkpoint(tmp_path / "soup.ckpt", net=net, strict_load=True)
    torch.testing.assert_close(net.b.weight, (nets[0].a.weight + nets[1].a.weight) / 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.float8_e5m2])
def test_small_types_are_summed_up_in_double_precision(milepost, saved, tmp_path, dtype):
    """And rounded once: a sum in the type itself would stand still."""
    values = [1.0, 1.0, 1.0, 1.5, 2.0]
    paths = [saved(f"{place}", w=torch.tensor([value]).to(dtype)) for place, value in enumerate(values)]
    milepost("average", *paths, "-o", tmp_path / "soup.ckpt")
    soup = load_checkpoint(tmp_path / "soup.ckpt")["w"]
    assert (soup.dtype, soup) == (dtype, torch.tensor([1.3], dtype=torch.float64).to(dtype))


def test_what_is_equal_and_no_real_number_is_kept(milepost, saved, tmp_path):
    """Texts, counters, truth values."""
    same = {"note": "warm", "steps": torch.tensor(7), "mask": torch.tensor([True, False])}
    paths = saved("a", w=torch.zeros(1), **same), saved("b", w=torch.ones(1), **same)
    done = milepost("average", *paths, "-o", tmp_path / "soup.ckpt", "--json")
    assert (done.json["averaged"], done.json["taken"]) == (["w"], [])
    soup = load_checkpoint(tmp_path / "soup.ckpt")
    assert (soup["note"], soup["steps"].item(), soup["mask"].tolist()) == ("warm", 7, [True, False])


@pytest.mark.parametrize(
    ("other", "said"),
    [
        ({"w": torch.ones(3)}, "w: float32 [3]"),
        ({"w": torch.ones(2).half()}, "w: float16 [2]"),
        ({"v": torch.ones(2)}, "v: float32 [2] and 1 more"),
    ],
)
def test_other_networks_are_refused(milepost, saved, tmp_path, other, said):
    """Before anything is written."""
    done = milepost("average", saved("b", **other), saved("a", w=torch.ones(2)), "-o", tmp_path / "soup.ckpt")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert said in done.err
    assert not (tmp_path / "soup.ckpt").exists()


def test_damage_costs_no_file(milepost, runs, damaged, tmp_path):
    """What had the name is as it was."""
    (tmp_path / "soup.ckpt").write_bytes(b"precious")
    done = milepost("average", runs / "net-1_2.ckpt", damaged, "-o", tmp_path / "soup.ckpt")
    assert done.code == 2
    assert "head.weight" in done.err
    assert (tmp_path / "soup.ckpt").read_bytes() == b"precious"
    assert [path.name for path in tmp_path.iterdir() if path.name.endswith(".tmp")] == []


@pytest.mark.parametrize(("count", "output"), [(1, "soup.ckpt"), (2, "soup.zip")])
def test_one_file_or_another_kind_of_file_is_refused(milepost, runs, tmp_path, count, output):
    """There is no average of one."""
    done = milepost("average", *[runs / "net-1_2.ckpt"] * count, "-o", tmp_path / output)
    assert (done.code, (tmp_path / output).exists()) == (2, False)


def test_a_file_can_be_averaged_into_its_own_place(milepost, saved, tmp_path):
    """It is read to the end before it is replaced."""
    a, b = saved("a", w=torch.zeros(2)), saved("b", w=torch.ones(2))
    assert milepost("average", a, b, "-o", a).code == 0
    assert load_checkpoint(a)["w"].tolist() == [0.5, 0.5]


def test_checkpoints_with_mindspores_names_have_an_average_that_loads(milepost, tmp_path):
    """What undoes the dialect goes with the names."""
    nets = [nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)) for _ in range(2)]
    paths = [save_checkpoint(net, tmp_path / f"{i}.ckpt", dialect="mindspore") for i, net in enumerate(nets)]
    assert milepost("average", *paths, "-o", tmp_path / "soup.ckpt").code == 0
    soup = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    load_checkpoint(tmp_path / "soup.ckpt", net=soup, strict_load=True)
    torch.testing.assert_close(soup[0].weight, (nets[0][0].weight + nets[1][0].weight) / 2)
