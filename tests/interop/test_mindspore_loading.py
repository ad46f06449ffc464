"""Networks from files that real MindSpore wrote: by what the target is, never by a guess."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from milepost import load_checkpoint, load_param_into_net, save_checkpoint
from milepost.errors import LoadError, MismatchError
from milepost.format.dialect import DIALECTS
from milepost.interop.mindspore import names

GOLDEN = Path(__file__).parents[1] / "golden" / "files"


class Cells(nn.Module):
    """The twin of what tests/golden/generate.py calls so."""

    def __init__(self):
        super().__init__()
        self.conv1d = nn.Conv1d(2, 3, 5)
        self.conv1d_back = nn.ConvTranspose1d(2, 3, 5)
        self.conv2d = nn.Conv2d(2, 4, 3, groups=2)
        self.conv2d_back = nn.ConvTranspose2d(2, 3, 3, bias=False)
        self.conv3d = nn.Conv3d(1, 2, 2, bias=False)
        self.norms = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm3d(3), nn.SyncBatchNorm(3))
        self.layer_norm = nn.LayerNorm(4)
        self.group_norm = nn.GroupNorm(2, 4)
        self.embedding = nn.Embedding(5, 3)
        self.prelu = nn.PReLU(3)
        self.dense = nn.Linear(2, 3)
        self.bilinear = nn.Bilinear(2, 3, 4)
        self.lstm = nn.LSTM(3, 2, 2, bidirectional=True)
        self.gru = nn.GRU(3, 2)
        self.rnn = nn.RNN(3, 2)
        self.lstm_cell = nn.LSTMCell(3, 2)
        self.gru_cell = nn.GRUCell(3, 2)
        self.rnn_cell = nn.RNNCell(3, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.attention_of_others = nn.MultiheadAttention(4, 2, kdim=3, vdim=2)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6), 1, enable_nested_tensor=False)
        self.decoder = nn.TransformerDecoderLayer(4, 2, 6)
        self.mint = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm2d(3), nn.LayerNorm(4), nn.Embedding(5, 3))


RENAMED = {
    "norms.0.gamma": "norms.0.weight",
    "norms.1.beta": "norms.1.bias",
    "norms.2.bn2d.moving_mean": "norms.2.running_mean",
    "norms.3.moving_variance": "norms.3.running_var",
    "layer_norm.gamma": "layer_norm.weight",
    "group_norm.beta": "group_norm.bias",
    "embedding.embedding_table": "embedding.weight",
    "prelu.w": "prelu.weight",
    "encoder.layers.0.dense1.weight": "encoder.layers.0.linear1.weight",
    "encoder.layers.0.norm2.gamma": "encoder.layers.0.norm2.weight",
    "decoder.dense2.bias": "decoder.linear2.bias",
    "decoder.norm3.beta": "decoder.norm3.bias",
}
AS_THEY_ARE = (
    "conv1d.weight",
    "lstm.weight_hh_l1_reverse",
    "gru.bias_ih_l0",
    "attention.in_proj_weight",
    "attention.out_proj.weight",
    "attention_of_others.k_proj_weight",
    "mint.1.running_var",
    "mint.2.weight",
)


def resnet():
    """What of a ResNet's structure its names show."""
    block = nn.Module()
    block.conv1, block.bn1 = nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2)
    block.downsample = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False), nn.BatchNorm2d(2))
    net = nn.Module()
    net.conv1, net.bn1, net.fc = nn.Conv2d(1, 2, 7, bias=False), nn.BatchNorm2d(2), nn.Linear(2, 3)
    for number in range(1, 5):
        setattr(net, f"layer{number}", nn.Sequential(copy.deepcopy(block)))
    return net


def as_mindspore(net, dialect="mindspore"):
    """The network's values under MindSpore's names, in MindSpore's shapes."""
    state = net.state_dict()
    owners, families = names.owners(net, state), names.places(state)
    return {
        names.spoken(name, owners[name], families, dialect): value.reshape(
            names.flat_shape(owners[name], name.rpartition(".")[2], tuple(value.shape))
        )
        for name, value in state.items()
        if not name.endswith("num_batches_tracked")
    }


def test_every_kind_of_cell_of_a_mindspore_file_is_loaded():
    """Strictly: each name of the file is used, each of the network has its value."""
    net = Cells()
    report = load_checkpoint(GOLDEN / "cells.ckpt", net=net, strict_load=True).report
    assert {found: name for found, name in report.renamed if found in RENAMED} == RENAMED
    assert set(AS_THEY_ARE) <= set(report.loaded) - {name for _, name in report.renamed}
    assert (report.missing, report.unexpected) == ((), ())
    file = load_checkpoint(GOLDEN / "cells.ckpt")
    found_under = {name: found for found, name in report.renamed}
    for name, value in net.state_dict().items():
        if name not in report.kept:
            saved = file[found_under.get(name, name)]
            assert torch.equal(value, saved.reshape(value.shape)), name
            assert saved.shape == value.shape or name.startswith("conv1d"), name


COMPUTED = {
    "conv1d": lambda: nn.Conv1d(2, 3, 5),
    "conv1d_back": lambda: nn.ConvTranspose1d(2, 3, 5),
    "batch_norm": lambda: nn.BatchNorm1d(3),
    "layer_norm": lambda: nn.LayerNorm(4, eps=1e-7),
    "group_norm": lambda: nn.GroupNorm(2, 4),
    "prelu": lambda: nn.PReLU(3),
    "lstm": lambda: nn.LSTM(3, 2, 2, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(3, 2, 2, batch_first=True, bidirectional=True),
    "rnn": lambda: nn.RNN(3, 2, batch_first=True),
    "gru_cell": lambda: nn.GRUCell(3, 2),
    "attention": lambda: nn.MultiheadAttention(4, 2, batch_first=True),
    "encoder": lambda: nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True),
}


@pytest.mark.parametrize("name", COMPUTED)
def test_a_twin_computes_what_the_cell_computed(name):
    """Gates, heads and kernels are in the same order, not only of the same size."""
    net = nn.ModuleDict({name: COMPUTED[name]()})
    file = load_checkpoint(GOLDEN / "computed.ckpt", net=net, specify_prefix=name)
    net.eval()
    inputs = {"gru_cell": ("x", "h"), "attention": ("x", "x", "x")}.get(name, ("x",))
    with torch.no_grad():
        y = net[name](*(file[f"{name}.{each}"] for each in inputs))
    assert (file.report.missing, file.report.mismatched) == ((), ())
    assert torch.allclose(y[0] if isinstance(y, tuple) else y, file[f"{name}.y"], rtol=0, atol=1e-5)


def test_what_mindspore_does_not_count_is_kept_and_told():
    """`num_batches_tracked` is no missing name, where it changes nothing."""
    report = load_checkpoint(GOLDEN / "cells.ckpt", net=Cells(), strict_load=True).report
    assert report.kept == tuple(f"norms.{number}.num_batches_tracked" for number in range(4))
    assert "kept (4)" in str(report)


def test_a_count_that_matters_is_missing():
    """With momentum=None the running averages are weighted by it."""
    net = nn.Sequential(nn.BatchNorm2d(3, momentum=None))
    with pytest.warns(UserWarning, match="num_batches_tracked"):
        report = load_param_into_net(net, as_mindspore(net))
    assert report.missing == ("0.num_batches_tracked",)


def test_a_cell_that_stands_alone_has_names_of_its_own():
    """A bare BatchNorm2d is saved with `mean` and `variance`."""
    net = nn.BatchNorm2d(3)
    report = load_checkpoint(GOLDEN / "bare.ckpt", net=net, strict_load=True).report
    assert dict(report.renamed)["mean"] == "running_mean"
    assert net.running_var.tolist() == load_checkpoint(GOLDEN / "bare.ckpt")["variance"].tolist()


@pytest.mark.parametrize("file", ["momentum.ckpt", "adam.ckpt"])
def test_the_optimizers_entries_are_not_the_networks(file):
    """A training's checkpoint loads strictly into the network."""
    net = nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))
    report = load_checkpoint(GOLDEN / file, net=net, strict_load=True).report
    assert report.unexpected == ()


@pytest.mark.parametrize("dialect", ["mindspore-r0.6", "mindspore-mindcv"])
def test_a_resnet_of_a_model_zoo_has_torchvisions_names(dialect):
    """`down_sample_layer`, `end_point` and their like, below whatever the network is part of."""
    saved = nn.ModuleDict({"backbone": resnet()})
    target = nn.ModuleDict({"backbone": resnet()})
    report = load_param_into_net(target, as_mindspore(saved, dialect), strict_load=True)
    assert any(found.startswith("backbone.layer1.0.down_sample") for found, _ in report.renamed)
    for name, value in saved.state_dict().items():
        assert torch.equal(target.state_dict()[name], value), name


LEAVES = (
    lambda: nn.Conv1d(2, 3, 5),
    lambda: nn.ConvTranspose1d(2, 3, 1),
    lambda: nn.Conv2d(1, 2, 3),
    lambda: nn.BatchNorm1d(3),
    lambda: nn.BatchNorm3d(2),
    lambda: nn.InstanceNorm2d(2, affine=True, track_running_stats=True),
    lambda: nn.LayerNorm((2, 3)),
    lambda: nn.GroupNorm(1, 2),
    lambda: nn.Embedding(2, 3),
    lambda: nn.PReLU(),
    lambda: nn.Linear(2, 2),
    lambda: nn.GRU(2, 3),
    lambda: nn.MultiheadAttention(4, 2),
    lambda: nn.TransformerEncoderLayer(4, 2, 3),
    resnet,
)


@given(
    st.recursive(
        st.sampled_from(LEAVES),
        lambda inner: st.dictionaries(st.sampled_from(["0", "1", "body", "fc", "downsample"]), inner, min_size=1),
        max_leaves=4,
    ),
    st.sampled_from(DIALECTS),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_written_in_a_dialect_is_found_again(tree, dialect):
    """For networks of any shape: no name is lost, none is taken for another."""

    def build(part):
        return part() if callable(part) else nn.ModuleDict({name: build(inner) for name, inner in part.items()})

    net, twin = build(tree), build(tree)
    load_param_into_net(twin, as_mindspore(net, dialect), strict_load=True)
    assert all(torch.equal(value, twin.state_dict()[name]) for name, value in net.state_dict().items())


def test_only_a_resnet_has_a_resnets_other_names():
    """`classifier` is not taken for the `fc` of just any network."""
    net = nn.Sequential()
    net.fc, net.conv = nn.Linear(2, 3), nn.Conv2d(1, 1, 1)
    with pytest.warns(UserWarning, match=r"fc\.weight"):
        report = load_param_into_net(
            net, {"classifier.weight": torch.ones(3, 2), "conv.weight": torch.ones(1, 1, 1, 1)}
        )
    assert report.unexpected == ("classifier.weight",)


def test_two_that_could_be_meant_are_listed_and_nothing_changes():
    """Never a guess."""
    net = resnet()
    before = copy.deepcopy(net.state_dict())
    values = as_mindspore(resnet(), "mindspore-r0.6")
    values["classifier.weight"] = values["end_point.weight"]
    with pytest.raises(LoadError, match=r"end_point\.weight or classifier\.weight -> fc\.weight.*rename="):
        load_param_into_net(net, values)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    report = load_param_into_net(net, values, filter_prefix="classifier", strict_load=True)
    assert ("end_point.weight", "fc.weight") in report.renamed


def test_a_recurrent_layer_in_one_piece_is_refused():
    """MindSpore 1 saved an LSTM as one weight, in an order that the file does not tell."""
    net = nn.ModuleDict({"lstm": nn.LSTM(3, 2), "fc": nn.Linear(2, 1)})
    values = {"lstm.weight": torch.ones(56, 1, 1), "fc.weight": torch.ones(1, 2), "fc.bias": torch.ones(1)}
    with pytest.raises(LoadError, match=r"lstm\.weight -> all of lstm, in cuDNN's or in oneDNN's order"):
        load_param_into_net(net, values)


def test_a_name_that_fits_goes_before_one_that_could_be_meant():
    """Whatever else is in the file."""
    net = nn.Sequential(nn.LayerNorm(2, bias=False))
    report = load_param_into_net(net, {"0.weight": torch.full((2,), 1.0), "0.gamma": torch.full((2,), 2.0)})
    assert net[0].weight.tolist() == [1.0, 1.0]
    assert report.unexpected == ("0.gamma",)


def test_the_users_renaming_comes_first():
    """Then what is left is translated."""
    net = nn.ModuleDict({"encoder": nn.Sequential(nn.LayerNorm(2))})
    values = {"backbone.0.gamma": torch.full((2,), 3.0), "backbone.0.beta": torch.zeros(2)}
    report = load_param_into_net(net, values, rename={"backbone.": "encoder."}, strict_load=True)
    assert report.renamed[0] == ("backbone.0.gamma", "encoder.0.weight")


def test_a_wrapped_network_is_looked_through(tmp_path):
    """DistributedDataParallel's `module.` is none of MindSpore's."""
    net = nn.Module()
    net.module = nn.Sequential(nn.BatchNorm2d(2))
    load_param_into_net(net, as_mindspore(nn.Sequential(nn.BatchNorm2d(2))), strict_load=True)


def test_names_of_pytorch_are_never_taken_for_mindspores(tmp_path):
    """What Milepost saved of a module, or torch, has PyTorch's names, whatever they look like."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.gamma, self.beta = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2))

    net = nn.Sequential(Own(), nn.Linear(1, 1))
    torch.save(net.state_dict(), tmp_path / "own.pt")
    for path in (save_checkpoint(net, tmp_path / "own.ckpt"), tmp_path / "own.pt"):
        with pytest.warns(UserWarning, match="were not loaded"):
            report = load_checkpoint(path, net=nn.Sequential(nn.LayerNorm(2), nn.Linear(1, 1))).report
        assert report.missing == ("0.weight", "0.bias")


def test_a_shape_that_differs_otherwise_is_a_mismatch():
    """A kernel that is more than one high is no Conv1d's."""
    with pytest.raises(MismatchError, match=r"weight: \(3, 2, 2, 5\)"):
        load_param_into_net(nn.Conv1d(2, 3, 5), {"weight": torch.ones(3, 2, 2, 5), "bias": torch.ones(3)})


def test_a_flat_kernel_is_read_into_memory_of_any_layout():
    """Contiguous or not; also on the meta device."""
    values = {"weight": torch.arange(30.0).reshape(3, 2, 1, 5), "bias": torch.ones(3)}
    turned = nn.Conv1d(2, 3, 5)
    turned.weight = nn.Parameter(torch.zeros(5, 2, 3).permute(2, 1, 0))
    for net in (nn.Conv1d(2, 3, 5), turned, nn.Conv1d(2, 3, 5, device="meta")):
        load_param_into_net(net, values, strict_load=True)
        assert torch.equal(net.weight, torch.arange(30.0).reshape(3, 2, 5))


def test_tied_weights_need_one_name():
    """MindSpore saves a parameter that is used twice once."""
    net = nn.Sequential(nn.Embedding(5, 3), nn.Linear(3, 5, bias=False))
    net[1].weight = net[0].weight
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report = load_param_into_net(net, {"0.embedding_table": torch.ones(5, 3)}, strict_load=True)
    assert report.loaded == ("0.weight", "1.weight")


def test_a_file_saved_again_keeps_what_it_does_not_know(tmp_path):
    """MindSpore's entries, saved by Milepost under MindSpore's names, still load."""
    path = save_checkpoint(load_checkpoint(GOLDEN / "cells.ckpt"), tmp_path / "again.ckpt")
    load_checkpoint(path, net=Cells(), strict_load=True)
