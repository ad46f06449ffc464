"""A module into a snapshot, and values into a module."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn

from milepost.errors import LoadError, MismatchError, NothingLoadedError, UnsupportedStateError
from milepost.state import modules
from milepost.state.snapshot import Snapshot
from milepost.state.values import unpack


def put(module, values, *, strict=False, **settings):
    prepared = modules.prepare(module, modules.from_values("x.ckpt", values), strict=strict, **settings)
    prepared.apply()
    return prepared.report


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


class WithExtra(nn.Linear):
    def __init__(self):
        super().__init__(2, 2)
        self.calls = 0

    def get_extra_state(self):
        return {"calls": self.calls, "scale": torch.ones(2)}

    def set_extra_state(self, state):
        self.calls, self.scale = state["calls"], state["scale"]


def test_parameters_and_persistent_buffers_are_taken_with_their_kind():
    """What torch counts as state, and nothing else."""
    net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))
    net.register_buffer("scratch", torch.zeros(1), persistent=False)
    snapshot = Snapshot()
    modules.take(net, snapshot)
    assert {name: array.kind for name, array in snapshot.arrays.items()} == {
        "0.weight": "parameter",
        "0.bias": "parameter",
        "1.weight": "parameter",
        "1.bias": "parameter",
        "1.running_mean": "buffer",
        "1.running_var": "buffer",
        "1.num_batches_tracked": "buffer",
    }


def test_tied_weights_are_taken_once():
    """The second name is an alias."""
    snapshot = Snapshot()
    modules.take(Tied(), snapshot)
    assert list(snapshot.arrays) == ["embed.weight"]
    assert snapshot.aliases == {"head.weight": "embed.weight"}


def test_extra_state_is_taken_and_restored():
    """`get_extra_state` may return numbers and tensors."""
    net, snapshot = WithExtra(), Snapshot()
    net.calls = 7
    modules.take(net, snapshot)
    target = WithExtra()
    packed, scale = snapshot.state["extra"], torch.full((2,), 3.0)
    source = dataclasses.replace(
        modules.from_values("x.ckpt", net.state_dict()),
        names=["weight", "bias"],
        extra=list(packed),
        fetch_extra=lambda name: unpack(packed[name], lambda _: scale),
    )
    prepared = modules.prepare(target, source, strict=True)
    prepared.apply()
    assert prepared.report.loaded == ("weight", "bias", "_extra_state")
    assert (target.calls, target.scale.tolist()) == (7, [3.0, 3.0])


def test_a_name_of_the_network_that_the_state_needs_is_refused():
    """A module called `optimizer` cannot shadow the optimizer's entries."""
    snapshot = Snapshot()
    snapshot.keep("optimizer.w.exp_avg", "parameter", torch.ones(1))
    with pytest.raises(UnsupportedStateError, match=r"optimizer\.w\.exp_avg: found two tensors"):
        snapshot.keep("optimizer.w.exp_avg", "optimizer", torch.ones(1))


@pytest.mark.parametrize("tensor", [torch.eye(2).to_sparse(), torch.empty(2, device="meta")], ids=["sparse", "meta"])
def test_a_tensor_without_dense_data_is_refused_by_name(tensor):
    """At the save, with the name."""
    with pytest.raises(UnsupportedStateError, match="^layer.weight: found a tensor"):
        Snapshot().keep("layer.weight", "parameter", tensor)


def test_loading_reports_every_name_of_both_sides():
    """Loaded, missing, unexpected: nothing is left unsaid."""
    net = nn.Linear(2, 1)
    report = put(net, {"weight": torch.ones(1, 2), "other": torch.ones(3)})
    assert (report.loaded, report.missing, report.unexpected) == (("weight",), ("bias",), ("other",))
    assert net.weight.tolist() == [[1.0, 1.0]]
    missing, unexpected = report
    assert (missing, unexpected) == (["bias"], ["other"])


@pytest.mark.parametrize(
    ("saved", "found"),
    [
        ("module.weight", "weight"),
        ("_orig_mod.weight", "weight"),
        ("module._orig_mod.weight", "weight"),
        ("weight", "module.weight"),
    ],
)
def test_wrappers_are_looked_through_on_both_sides(saved, found):
    """A checkpoint of a wrapped network loads into a bare one and back, and the report says so."""
    net = nn.Linear(2, 1, bias=False)
    target = nn.Sequential() if found.startswith("module") else net
    if target is not net:
        target = nn.Module()
        target.module = net
    report = put(target, {saved: torch.ones(1, 2)})
    assert net.weight.tolist() == [[1.0, 1.0]]
    assert report.renamed == ((saved, found),)


def test_an_ambiguous_wrapper_is_not_guessed():
    """Two candidates for one name are none."""
    net = nn.Linear(2, 1, bias=False)
    with pytest.raises(NothingLoadedError):
        put(net, {"module.weight": torch.ones(1, 2), "_orig_mod.weight": torch.zeros(1, 2)})


def test_no_common_name_is_an_error_with_both_sides_names():
    """A silent no-op is the worst answer."""
    with pytest.raises(NothingLoadedError, match=r"names like conv\.kernel.*names like weight, bias"):
        put(nn.Linear(2, 1), {"conv.kernel": torch.ones(1)})


def test_a_shape_mismatch_names_the_entry_and_both_shapes_and_changes_nothing():
    """Not one parameter is touched before all of them fit."""
    net = nn.Linear(2, 1)
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(MismatchError, match=r"bias: \(4,\) in the checkpoint, \(1,\) in the target.*filter_prefix"):
        put(net, {"weight": torch.ones(1, 2), "bias": torch.ones(4)})
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize(
    ("value", "dtype", "fits"),
    [
        (torch.tensor([1.5]), torch.float16, True),
        (torch.tensor([1e30]), torch.float16, False),
        (torch.tensor([float("inf")]), torch.float16, True),
        (torch.tensor([1.5], dtype=torch.float64), torch.bfloat16, True),
        (torch.tensor([3]), torch.int8, True),
        (torch.tensor([300]), torch.int8, False),
        (torch.tensor([-1]), torch.uint8, False),
        (torch.tensor([3]), torch.float32, False),
        (torch.tensor([1.0]), torch.int32, False),
        (torch.tensor([True]), torch.int32, False),
    ],
)
def test_dtypes_are_converted_inside_their_family_if_the_range_allows(value, dtype, fits):
    """An overflow is an error, not a wrap; a change of family is an error."""
    net = nn.Module()
    net.register_buffer("value", torch.zeros(1, dtype=dtype))
    if fits:
        report = put(net, {"value": value})
        assert report.cast == (("value", str(value.dtype), str(dtype)),)
        assert torch.equal(net.value, value.to(dtype))
    else:
        with pytest.raises(MismatchError, match="value: "):
            put(net, {"value": value})


@pytest.mark.parametrize(
    "values",
    [
        {"weight": torch.ones(1, 2)},
        {"weight": torch.ones(1, 2), "bias": torch.ones(1), "more": torch.ones(1)},
        {"weight": torch.ones(1, 2), "bias": torch.ones(1, dtype=torch.float64)},
    ],
    ids=["missing", "unexpected", "cast"],
)
def test_strict_refuses_whatever_does_not_fit_exactly(values):
    """Strict means: the same names, the same dtypes."""
    with pytest.raises(LoadError):
        put(nn.Linear(2, 1), values, strict=True)


def test_a_tied_module_stays_tied_and_loads_from_either_side():
    """Loading does not break what ties weights together."""
    net = Tied()
    put(net, {"embed.weight": torch.full((5, 3), 2.0), "head.weight": torch.full((5, 3), 2.0)}, strict=True)
    assert net.head.weight is net.embed.weight
    assert net.embed.weight.unique().tolist() == [2.0]
