"""One file by hand: saved, opened, loaded."""

from __future__ import annotations

import copy
import errno
import os
import pickle
import re
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from milepost import load_checkpoint, load_param_into_net, save_checkpoint
from milepost.checkpoint.loading import prepare
from milepost.checkpoint.saving import store
from milepost.engine.reader import Reader
from milepost.engine.writer import write
from milepost.errors import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    LoadError,
    MilepostError,
    MismatchError,
    NothingLoadedError,
    SaveError,
    SettingError,
    SettingTypeError,
    UnsupportedStateError,
)
from milepost.format.ckpt_plan import plan
from milepost.format.spec import Array, ArraySpec
from milepost.manager import CheckpointManager
from milepost.moment import Moment
from milepost.state import modules, optimizers
from milepost.state.snapshot import Snapshot
from milepost.storage.local import LocalStorage

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.uint8, torch.uint16, torch.uint32, torch.uint64, torch.bool, torch.complex64, torch.complex128,
    torch.float8_e4m3fn, torch.float8_e5m2,
]  # fmt: skip


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a.ckpt"


def same_bits(a: torch.Tensor, b: torch.Tensor) -> bool:
    def raw(tensor):
        return tensor.detach().contiguous().reshape(-1).view(torch.uint8)

    return a.dtype == b.dtype and a.shape == b.shape and torch.equal(raw(a), raw(b))


def random_tensor(dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    """All bit patterns, NaNs with payload and subnormals included (of bools the two that exist)."""
    count = int(np.prod(shape)) * dtype.itemsize
    raw = torch.randint(0, 2 if dtype == torch.bool else 256, (count,), dtype=torch.uint8)
    return raw.view(dtype).reshape(shape)


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_and_shape_comes_back_to_the_bit(path, dtype, shape):
    """Nothing is converted, nothing is normalised."""
    tensor = random_tensor(dtype, shape)
    save_checkpoint({"value": tensor}, path)
    assert same_bits(load_checkpoint(path)["value"], tensor)


@pytest.mark.parametrize(
    "view",
    [
        lambda t: t[1],
        lambda t: t[:, ::2],
        lambda t: t.transpose(0, 2),
        lambda t: t.expand(2, *t.shape),
        lambda t: t[0, 0, 0],
        lambda t: t.to(memory_format=torch.channels_last) if t.dim() == 4 else t.permute(2, 0, 1),
        lambda t: torch.view_as_complex(t[..., :2].contiguous()).conj(),
    ],
    ids=["slice", "strided", "transposed", "expanded", "scalar", "permuted", "conjugated"],
)
def test_a_view_is_saved_as_what_it_shows(path, view):
    """Any strides, and only the view's own elements: not the storage that it is a slice of."""
    tensor = view(torch.randn(4, 6, 50_000))
    save_checkpoint({"value": tensor}, path)
    assert torch.equal(load_checkpoint(path)["value"], tensor.resolve_conj())
    assert path.stat().st_size < tensor.numel() * tensor.element_size() + 4096


@pytest.mark.parametrize("form", ["module", "mapping", "list"])
def test_all_three_forms_say_the_same(path, form):
    """A module, a mapping, or MindSpore's list of name and data."""
    net = nn.Linear(3, 2)
    state = net.state_dict()
    save_obj = {
        "module": net,
        "mapping": state,
        "list": [{"name": name, "data": value} for name, value in state.items()],
    }[form]
    assert save_checkpoint(save_obj, path) == path
    loaded = load_checkpoint(path)
    assert list(loaded) == ["weight", "bias"]
    assert all(torch.equal(loaded[name], state[name]) for name in state)


def test_appended_values_come_back_beside_the_parameters(path):
    """Numbers as 64-bit scalars, texts as texts."""
    values = {"epoch_num": 3, "lr": 0.1, "is_warm": True, "note": "été ✓", "empty": "", "more": np.arange(3)}
    save_checkpoint(nn.Linear(1, 1), path, append_dict=values)
    loaded = load_checkpoint(path)
    assert loaded["epoch_num"].dtype == torch.int64
    assert (loaded["epoch_num"].item(), loaded["lr"].item(), loaded["is_warm"].item()) == (3, 0.1, True)
    assert (loaded["note"], loaded["empty"], loaded["more"].tolist()) == ("été ✓", "", [0, 1, 2])
    assert [loaded.kind(name) for name in ("weight", "note")] == ["parameter", "appended"]
    assert load_param_into_net(nn.Linear(1, 1), loaded).unexpected == ()


def test_a_save_that_need_not_be_durable_is_a_whole_file_all_the_same(path, monkeypatch):
    """It waits for no disk, and says what a durable one says."""
    save_checkpoint({"w": torch.arange(5.0)}, path)
    durable = path.read_bytes()
    monkeypatch.setattr(os, "fsync", None)
    save_checkpoint({"w": torch.arange(5.0)}, path, durable=False)
    assert path.read_bytes() == durable
    assert os.listdir(path.parent) == [path.name]


def test_mapped_tensors_are_the_files_bytes_and_safe_to_write_to(path):
    """What is written to one stays in this process; the file, and who else maps it, see nothing of it."""
    saved = {
        "w": torch.arange(5000.0),
        "b": torch.ones(3, dtype=torch.bfloat16),
        "empty": torch.ones(2, 0),
        "s": "text",
    }
    save_checkpoint(saved, path)
    before = path.read_bytes()
    with load_checkpoint(path, mmap=True) as first, load_checkpoint(path, mmap=True) as second:
        mine, others = first["w"], second["w"]
        assert torch.equal(mine, saved["w"])
        mine.zero_()
        assert torch.equal(others, saved["w"])
        assert (first["b"].tolist(), first["empty"].shape, first["s"]) == ([1.0] * 3, (2, 0), "text")
    assert torch.equal(mine, torch.zeros(5000))
    assert path.read_bytes() == before


def test_mapped_tensors_outlive_their_file_and_its_name(path):
    """The file that was mapped stays for them, when another takes its name, and when it is closed and removed."""
    save_checkpoint({"w": torch.arange(5000.0)}, path)
    with load_checkpoint(path, mmap=True) as opened:
        weight = opened["w"]
        save_checkpoint({"w": torch.zeros(9)}, path)
        path.unlink()
    assert torch.equal(weight, torch.arange(5000.0))


def test_mapped_tensors_cost_no_memory_of_their_own(path):
    """All of them lie in one map; their addresses are as far from each other as their places in the file."""
    save_checkpoint({"a": torch.arange(5000.0), "b": torch.arange(5000.0)}, path)
    with load_checkpoint(path, mmap=True) as opened:
        entries = opened._reader.index.entries
        apart = entries["b"].extents[0].offset - entries["a"].extents[0].offset
        assert opened["b"].data_ptr() - opened["a"].data_ptr() == apart


@pytest.mark.parametrize("mapped", [False, True])
def test_a_content_is_compared_with_its_checksum_unless_that_is_not_wanted(path, mapped):
    """Mapped or not, alone or into a network; the index is checked in any case."""
    net = nn.Linear(3, 2)
    save_checkpoint(net, path)
    raw = bytearray(path.read_bytes())
    raw[raw.index(net.weight.detach().numpy().tobytes())] ^= 1
    path.write_bytes(raw)
    with load_checkpoint(path, mmap=mapped) as opened:
        assert torch.equal(opened["bias"], net.bias)
        with pytest.raises(DamagedCheckpointError, match="entry 'weight'"):
            opened["weight"]
    with load_checkpoint(path, net=nn.Linear(3, 2), mmap=mapped, verify=False) as opened:
        assert (opened["weight"] != net.weight).sum() == 1
    raw[-100] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(path, mmap=mapped, verify=False)


def test_a_slice_of_a_mapped_tensor_reads_no_more_than_that(path):
    """Damage elsewhere in the tensor is not even looked at."""
    save_checkpoint({"w": torch.arange(1 << 20).reshape(1024, 1024)}, path)
    with open(path, "r+b") as file:
        file.seek(4 << 20)
        file.write(b"damage")
    with load_checkpoint(path, mmap=True, verify=False) as opened:
        assert opened["w"][7, :3].tolist() == [7168, 7169, 7170]


def test_large_entries_are_loaded_side_by_side_and_small_ones_in_turn(path):
    """Both are what was saved; a damaged one among them is named, and nothing has changed."""
    sizes = [10, 600_000, 0, 300_000, 7, 400_000]
    saved = nn.ParameterDict({f"w{place}": nn.Parameter(torch.rand(size)) for place, size in enumerate(sizes)})
    save_checkpoint(saved, path)
    net = nn.ParameterDict({name: nn.Parameter(torch.full_like(value, -1.0)) for name, value in saved.items()})
    load_checkpoint(path, net=net)
    assert all(torch.equal(net[name], saved[name]) for name in saved)
    raw = bytearray(path.read_bytes())
    raw[raw.index(saved["w3"].detach().numpy().tobytes()) + 1_000_000] ^= 1
    path.write_bytes(raw)
    for value in net.parameters():
        value.detach().fill_(-1.0)
    with pytest.raises(DamagedCheckpointError, match="entry 'w3'"):
        load_checkpoint(path, net=net)
    assert all((value == -1.0).all() for value in net.parameters())


def test_the_suffix_is_added_where_it_is_missing(tmp_path):
    """Dots of the name are kept."""
    assert save_checkpoint({"a": torch.ones(1)}, tmp_path / "model-0.5").name == "model-0.5.ckpt"


@pytest.mark.parametrize(
    ("save_obj", "error", "message"),
    [
        ({"a": [1, 2]}, UnsupportedStateError, "^a: found a list"),
        ({"a": None}, UnsupportedStateError, "^a: found a NoneType"),
        ([{"name": "a"}], SettingTypeError, "^save_obj"),
        (3, SettingTypeError, "^save_obj"),
        ([{"name": "a", "data": torch.ones(1)}] * 2, UnsupportedStateError, "^a: found two tensors"),
    ],
    ids=["list value", "none", "no data", "number", "twice"],
)
def test_what_cannot_be_saved_is_refused_and_the_old_file_stays(path, save_obj, error, message):
    """A failed save costs nothing."""
    save_checkpoint({"old": torch.ones(1)}, path)
    with pytest.raises(error, match=message):
        save_checkpoint(save_obj, path)
    assert list(load_checkpoint(path)) == ["old"]
    assert len(list(path.parent.iterdir())) == 1


def test_parameters_are_a_mapping_that_can_be_edited(path):
    """As a dict: remove what is not wanted, set what is; the file stays as it is."""
    save_checkpoint(nn.Linear(3, 2), path)
    parameters = load_checkpoint(path)
    parameters["weight"].zero_()
    parameters["bias"] = torch.ones(2)
    net = nn.Linear(3, 2)
    load_param_into_net(net, parameters)
    assert (net.weight.abs().sum().item(), net.bias.tolist()) == (0.0, [1.0, 1.0])
    del parameters["bias"]
    assert "bias" not in parameters
    with pytest.raises(KeyError):
        parameters["bias"]
    assert list(load_checkpoint(path)) == ["weight", "bias"]


def test_tied_weights_are_stored_once_and_come_back_as_one_tensor(path):
    """The file has room for one; the mapping has both names."""
    net = nn.Sequential(nn.Linear(50, 50, bias=False), nn.Linear(50, 50, bias=False))
    net[1].weight = net[0].weight
    save_checkpoint(net, path)
    assert path.stat().st_size < 1.5 * 50 * 50 * 4
    parameters = load_checkpoint(path)
    assert parameters["1.weight"] is parameters["0.weight"]


def test_loading_into_a_network_reports_on_the_mapping(path):
    """`load_checkpoint(file, net=...)` says what it did."""
    save_checkpoint(nn.Linear(3, 2), path)
    net = nn.Linear(3, 2)
    assert load_checkpoint(path, net=net).report.loaded == ("weight", "bias")


def test_what_the_network_misses_is_warned_about(path):
    """Half a load is never silent."""
    save_checkpoint({"weight": torch.ones(2, 3)}, path)
    with pytest.warns(UserWarning, match="1 of its entries were not loaded: bias"):
        load_checkpoint(path, net=nn.Linear(3, 2))


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ({"filter_prefix": "conv1"}, ["conv10.weight", "fc.weight"]),
        ({"filter_prefix": ["conv1.", "fc"]}, ["conv10.weight"]),
        ({"specify_prefix": "conv1"}, ["conv1.weight", "conv1.bias"]),
        ({"specify_prefix": ("conv1", "fc"), "filter_prefix": "conv1.bias"}, ["conv1.weight", "fc.weight"]),
    ],
    ids=str,
)
def test_prefixes_end_at_dots(path, choice, names):
    """`conv1` does not reach `conv10`."""
    every = ["conv1.weight", "conv1.bias", "conv10.weight", "fc.weight"]
    save_checkpoint({name: torch.ones(1) for name in every}, path)
    assert list(load_checkpoint(path, **choice)) == names


@pytest.mark.parametrize("value", ["", [], [""], [3]], ids=str)
def test_empty_prefixes_are_refused(path, value):
    """An empty prefix would mean everything."""
    save_checkpoint({"a": torch.ones(1)}, path)
    with pytest.raises(SettingError, match="^filter_prefix"):
        load_checkpoint(path, filter_prefix=value)


def test_prefixes_that_leave_nothing_are_an_error(path):
    """A typing error in a prefix is not an empty load."""
    save_checkpoint({"a": torch.ones(1)}, path)
    with pytest.raises(NothingLoadedError, match="names like a"):
        load_checkpoint(path, specify_prefix="b")


def test_a_missing_file_and_a_wrong_argument_are_told(tmp_path):
    """Each error is also a builtin kind that people catch."""
    with pytest.raises(FileNotFoundError, match=r"no\.ckpt") as caught:
        load_checkpoint(tmp_path / "no.ckpt")
    assert isinstance(caught.value, CheckpointNotFoundError)
    with pytest.raises(TypeError, match="^ckpt_file_name"):
        load_checkpoint(3)
    with pytest.raises(TypeError, match="^net"):
        load_param_into_net({}, {})


def test_a_flipped_bit_in_a_tensor_is_found_and_named(path):
    """Payloads are checked before they are handed out."""
    save_checkpoint({"small": torch.ones(2), "large": torch.zeros(1000)}, path)
    content = bytearray(path.read_bytes())
    at = content.index(bytes(4000)) + 100
    content[at] ^= 1
    path.write_bytes(content)
    parameters = load_checkpoint(path)
    assert parameters["small"].tolist() == [1.0, 1.0]
    with pytest.raises(DamagedCheckpointError, match=r"a\.ckpt, entry 'large'"):
        parameters["large"]


def test_damage_changes_no_parameter(path):
    """The network is loaded whole or not at all."""
    save_checkpoint(nn.Linear(3, 2), path)
    content = bytearray(path.read_bytes())
    bias = load_checkpoint(path)["bias"]
    content[content.index(bias.numpy().tobytes())] ^= 1
    path.write_bytes(content)
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    with pytest.raises(DamagedCheckpointError):
        load_checkpoint(path, net=net)
    assert torch.equal(net.weight, before)


def test_a_plain_dict_loads_into_a_network_but_not_into_an_optimizer():
    """Weights alone restore no optimizer, and that is said."""
    net = nn.Linear(2, 1)
    report = load_param_into_net(net, {"weight": np.ones((1, 2), np.float32), "bias": torch.zeros(1)})
    assert report.loaded == ("weight", "bias")
    with pytest.raises(NothingLoadedError, match="no optimizer state"):
        load_param_into_net(torch.optim.SGD(net.parameters(), lr=0.1), {"weight": torch.ones(1)})


def test_a_text_does_not_load_into_a_parameter():
    """What stands under a parameter's name must be a tensor."""
    with pytest.raises(MismatchError, match="weight: a str in the checkpoint, a tensor in the target"):
        load_param_into_net(nn.Linear(1, 1), {"weight": "text"})


def test_a_replaced_file_stays_what_it_was_for_those_who_opened_it(path):
    """An evaluator is not disturbed by the training."""
    save_checkpoint({"a": torch.zeros(3)}, path)
    parameters = load_checkpoint(path)
    save_checkpoint({"b": torch.ones(5)}, path)
    assert parameters["a"].tolist() == [0.0, 0.0, 0.0]


@pytest.fixture
def trained(tmp_path):
    """A training checkpoint of two layers with Adam, as the manager writes it: the path, and the network."""
    net = nn.ModuleDict({"body": nn.Linear(3, 3), "fc": nn.Linear(3, 2)})
    optimizer = torch.optim.Adam(net.parameters())
    net["fc"](net["body"](torch.ones(1, 3))).sum().backward()
    optimizer.step()
    manager = CheckpointManager(tmp_path / "run", net, optimizer)
    manager.start()
    return manager.save(Moment(1, 1, 1)), net, optimizer


def test_what_was_loaded_can_be_copied_but_not_pickled(path):
    """A copy has its own names; nothing closes a file that is not its own."""
    save_checkpoint(nn.Linear(2, 1), path)
    parameters = load_checkpoint(path)
    shallow, deep = copy.copy(parameters), copy.deepcopy(parameters)
    del shallow["bias"]
    deep["weight"].zero_()
    del shallow, deep
    assert list(parameters) == ["weight", "bias"]
    assert parameters["weight"].abs().sum() > 0
    with pytest.raises(TypeError, match="send the path instead"):
        pickle.dumps(parameters)


def test_a_closed_checkpoint_keeps_what_was_read(path):
    """As a context manager it gives its descriptor back at once."""
    save_checkpoint(nn.Linear(2, 1), path)
    with load_checkpoint(path) as parameters:
        weight = parameters["weight"]
    assert parameters["weight"] is weight
    with pytest.raises(ValueError, match="closed"):
        parameters["bias"]


def test_the_default_device_and_inference_mode_do_not_reach_what_is_loaded(trained):
    """Loading gives CPU tensors that can be trained, wherever it is called."""
    path, net, _ = trained
    with torch.device("meta"):
        assert load_checkpoint(path)["fc.weight"].device.type == "cpu"
    optimizer = torch.optim.Adam(net.parameters())
    with torch.inference_mode():
        load_param_into_net(optimizer, load_checkpoint(path))
    net["fc"](net["body"](torch.ones(1, 3))).sum().backward()
    optimizer.step()


@pytest.mark.filterwarnings("ignore:Lazy modules")
def test_a_lazy_network_is_refused(path):
    """It would be reported as loaded, and be as empty as before."""
    save_checkpoint(nn.Linear(3, 2), path)
    with pytest.raises(LoadError, match="lazy tensors"):
        load_checkpoint(path, net=nn.LazyLinear(2))


class Tied(nn.Module):
    """Tied weights, a frozen one, buffers, and a layer with strides of its own."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(4, 3)
        self.conv = nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
        self.norm = nn.BatchNorm1d(3)
        self.head = nn.Linear(3, 4)
        self.head.weight = self.embed.weight
        self.head.bias.requires_grad_(False)


class Observed(Tied):
    """As `Tied`, with user code that is run by `load_state_dict`."""

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        self.seen = sorted(state_dict)
        super()._load_from_state_dict(state_dict, prefix, *rest)


@pytest.mark.parametrize("kind", [Tied, Observed])
@pytest.mark.parametrize("from_file", [True, False])
def test_a_network_on_the_meta_device_gets_its_memory(path, kind, from_file):
    """What is tied stays tied, what is frozen frozen, and it can be trained."""
    net = kind()
    save_checkpoint(net, path)
    with torch.device("meta"):
        target = kind()
    target.embed.weight.mark = "kept"
    with torch.inference_mode():
        load_param_into_net(target, load_checkpoint(path) if from_file else net.state_dict(), strict_load=True)
    assert all(same_bits(value, net.state_dict()[name]) for name, value in target.state_dict().items())
    assert target.head.weight is target.embed.weight
    assert isinstance(target.embed.weight, nn.Parameter)
    assert target.embed.weight.mark == "kept"
    assert [parameter.requires_grad for parameter in target.head.parameters()] == [True, False]
    assert target.conv.weight.is_contiguous(memory_format=torch.channels_last)
    target.head(target.norm(target.embed(torch.arange(4)))).sum().backward()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda net: net.register_buffer("scratch", torch.ones(1, device="meta"), persistent=False), "scratch"),
        (lambda net: net.register_parameter("more", nn.Parameter(torch.ones(1, device="meta"))), "more"),
        (lambda net: net.register_forward_hook(print), None),
    ],
    ids=["not persistent", "missing", "fits"],
)
def test_a_network_stays_on_the_meta_device_if_something_would_lack_memory(path, change, message):
    """All of it or nothing; damage changes nothing either."""
    save_checkpoint(nn.Linear(3, 2), path)
    net = nn.Linear(3, 2, device="meta")
    change(net)
    if message is None:
        content = bytearray(path.read_bytes())
        content[content.index(load_checkpoint(path)["weight"].numpy().tobytes())] ^= 1
        path.write_bytes(content)
    with pytest.raises(LoadError if message else DamagedCheckpointError, match=message):
        load_checkpoint(path, net=net)
    assert all(parameter.is_meta for parameter in net.parameters())


@pytest.mark.parametrize("location", ["nonsense", "meta", 3, "cuda:77", ""], ids=repr)
def test_a_device_that_is_not_there_is_told_before_anything_else(path, location):
    """A setting is refused where it is given."""
    with pytest.raises(SettingError, match="^map_location"):
        load_checkpoint(path, map_location=location)


@pytest.mark.parametrize("location", ["cpu", torch.device("cpu")], ids=repr)
def test_the_mapping_is_on_the_device_that_was_asked_for(path, location):
    """As a text or a device."""
    save_checkpoint(nn.Linear(3, 2), path)
    assert load_checkpoint(path, map_location=location)["weight"].device == torch.device("cpu")


@pytest.mark.parametrize("kind", [Tied, Observed])
def test_each_way_of_loading_gives_the_same(path, kind):
    """Straight into memory, with strides of its own, by conversion, or by the user's own code."""
    net = kind()
    save_checkpoint(net, path)
    target = kind()
    target.norm.double()
    load_checkpoint(path, net=target)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in target.state_dict().items())
    assert (kind is Observed) == hasattr(target, "seen")


def test_autograd_sees_a_load_as_a_change(path):
    """A gradient through overwritten weights is an error, as after `copy_`."""
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    save_checkpoint(net, path)
    loss = net(torch.ones(1, 2)).sum()
    load_checkpoint(path, net=net)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_a_network_made_in_inference_mode_can_be_loaded(path):
    """As elsewhere, its values are set; nothing more."""
    save_checkpoint(nn.Linear(2, 2), path)
    with torch.inference_mode():
        net = nn.Linear(2, 2)
        parameters = load_checkpoint(path, net=net)
        assert torch.equal(net.weight, parameters["weight"])


def test_a_compiled_or_parametrized_network_loads(path):
    """Wrappers are looked through, parametrizations are loaded by their originals."""
    net = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    save_checkpoint(net, path)
    target = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    load_checkpoint(path, net=target, strict_load=True)
    assert torch.equal(target.weight, net.weight)
    other = torch.nn.utils.parametrizations.weight_norm(nn.Linear(2, 2))
    load_checkpoint(path, net=torch.compile(other, backend="eager"), strict_load=True)
    assert torch.equal(other.weight, net.weight)


@pytest.mark.parametrize(
    "buffer", [torch.zeros(1).expand(3), torch.eye(3)[0].to_sparse()], ids=["elements share memory", "sparse"]
)
def test_what_cannot_be_written_is_refused_before_anything_else_is(path, buffer):
    """torch would find it out in the middle."""
    net = nn.Linear(2, 2)
    save_checkpoint({**net.state_dict(), "buffer": torch.ones(3)}, path)
    nn.init.zeros_(net.weight)
    net.register_buffer("buffer", buffer)
    with pytest.raises(LoadError, match="sparse, or whose elements share memory: buffer"):
        load_checkpoint(path, net=net)
    assert not net.weight.any()


def test_users_hooks_run_on_a_load(path):
    """What `load_state_dict` would call is called."""
    net = nn.Linear(2, 2)
    save_checkpoint(net, path)
    called = []
    net.register_load_state_dict_post_hook(lambda module, keys: called.append(module))
    load_checkpoint(path, net=net)
    assert called == [net]


def test_prefixes_also_select_the_optimizers_state(trained):
    """Without the old head's parameters, and with a new head, the rest of the state still finds its place."""
    path, net, optimizer = trained
    parameters = load_checkpoint(path, filter_prefix="fc")
    assert all("fc" not in name for name in parameters)
    body = torch.optim.Adam(net["body"].named_parameters(prefix="body"))
    assert load_param_into_net(body, parameters, strict_load=True).unexpected == ()
    moment = optimizer.state[net["body"].weight]["exp_avg"]
    assert torch.equal(body.state[net["body"].weight]["exp_avg"], moment)
    with pytest.raises(NothingLoadedError, match="no optimizer state"):
        load_param_into_net(body, load_checkpoint(path, filter_prefix="optimizer"))


def moments(optimizer):
    return [value for state in optimizer.state.values() for value in state.values()]


def stepped_twin(net):
    """An optimizer that has state of its own."""
    twin = torch.optim.Adam(net.parameters())
    for parameter in net.parameters():
        parameter.grad = torch.ones_like(parameter)
    twin.step()
    return twin


def test_an_optimizers_state_is_read_into_its_own_memory(trained):
    """It is held once; a scheduler or a running lazy save that looks at a tensor sees it change."""
    path, net, optimizer = trained
    twin = stepped_twin(copy.deepcopy(net))
    before = moments(twin)
    versions = [tensor._version for tensor in before]
    load_param_into_net(twin, load_checkpoint(path))
    assert all(new is old for new, old in zip(moments(twin), before, strict=True))
    assert all(tensor._version > version for tensor, version in zip(before, versions, strict=True))
    assert all(torch.equal(*pair) for pair in zip(moments(twin), moments(optimizer), strict=True))


def test_an_optimizer_whose_load_is_watched_gets_new_tensors(trained):
    """What hooks and subclasses are shown are the values, not what was there before."""
    path, net, optimizer = trained
    twin = stepped_twin(copy.deepcopy(net))
    before, seen = moments(twin), []
    twin.register_load_state_dict_post_hook(lambda one: seen.extend(value.clone() for value in moments(one)))
    load_param_into_net(twin, load_checkpoint(path))
    assert not any(new is old for new, old in zip(moments(twin), before, strict=True))
    assert all(torch.equal(*pair) for pair in zip(seen, moments(optimizer), strict=True))


def test_an_optimizers_state_of_another_dtype_than_its_parameter_gets_new_tensors(tmp_path):
    """torch makes its own copies of those, so that what would be read into the old ones would be lost."""
    net = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(net.named_parameters(), lr=0.1, momentum=0.9)
    net.weight.grad, net.bias.grad = torch.full((2, 3), 7.0), torch.full((2,), 7.0)
    optimizer.step()
    net.to(torch.bfloat16)
    manager = CheckpointManager(tmp_path, net, optimizer)
    manager.start()
    path = manager.save(Moment(1, 1, 1))
    for state in optimizer.state.values():
        state["momentum_buffer"].fill_(3)
    load_param_into_net(optimizer, load_checkpoint(path))
    assert {value.dtype for value in moments(optimizer)} == {torch.float32}
    assert all(bool((value == 7).all()) for value in moments(optimizer))


def test_a_file_that_changes_before_an_optimizer_is_loaded_is_found_out(trained):
    """Some of its tensors may have been read by then; its options are as before."""
    path, net, _ = trained
    twin = stepped_twin(copy.deepcopy(net))
    twin.param_groups[0]["lr"] = 0.25
    with load_checkpoint(path) as parameters:
        prepared = prepare(twin, parameters, strict=True)
        place = parameters.index.entries["optimizer.fc.bias.exp_avg_sq"].extents[0].offset
        with path.open("r+b") as file:
            file.seek(place)
            file.write(b"\x55")
        with pytest.raises(DamagedCheckpointError, match=r"optimizer\.fc\.bias\.exp_avg_sq"):
            prepared.apply()
    assert twin.param_groups[0]["lr"] == 0.25


def test_version_counters_move_before_the_first_byte_does(path, monkeypatch):
    """A lazy save that reads a tensor meanwhile must know that it is no longer what it was."""
    net = nn.Linear(200, 200)
    save_checkpoint(net, path)
    before, seen = {name: tensor._version for name, tensor in net.state_dict().items()}, []
    real = Reader.read_into

    def read_into(opened, places):
        seen.append({name: tensor._version for name, tensor in net.state_dict().items()})
        real(opened, places)
        seen.append({name: tensor._version for name, tensor in net.state_dict().items()})

    monkeypatch.setattr(Reader, "read_into", read_into)
    load_checkpoint(path, net=net)
    after = {name: tensor._version for name, tensor in net.state_dict().items()}
    assert all(before[name] < seen[0][name] == seen[1][name] < after[name] for name in before)


def test_of_tied_weights_that_the_file_has_apart_the_last_is_loaded(path):
    """As torch loads them, and never some of both."""
    net = nn.Sequential(nn.Linear(200, 200, bias=False), nn.Linear(200, 200, bias=False))
    save_checkpoint(net, path)
    net[1].weight = net[0].weight
    for _ in range(5):
        load_checkpoint(path, net=net)
        assert torch.equal(net[0].weight, load_checkpoint(path)["1.weight"])


def test_one_element_is_contiguous_whatever_its_stride(path):
    """torch says so of a column of one row, and Milepost takes its word."""
    column = torch.arange(6.0).reshape(1, 6)[:, 2]
    assert column.stride() == (6,)
    save_checkpoint({"value": column}, path)
    place = torch.zeros(1, 6)[:, 3]
    net = nn.ParameterDict({"value": nn.Parameter(place)})
    load_param_into_net(net, load_checkpoint(path))
    assert net["value"].tolist() == [2.0]


def test_a_damaged_optimizer_state_changes_nothing(trained):
    """Every entry is checked before the first is overwritten."""
    path, net, _ = trained
    with load_checkpoint(path) as parameters:
        place = parameters.index.entries["optimizer.fc.bias.exp_avg_sq"].extents[0].offset
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    twin = stepped_twin(copy.deepcopy(net))
    before = [value.clone() for value in moments(twin)]
    with pytest.raises(DamagedCheckpointError, match=r"optimizer\.fc\.bias\.exp_avg_sq"):
        load_param_into_net(twin, load_checkpoint(path))
    assert all(torch.equal(*pair) for pair in zip(moments(twin), before, strict=True))


def test_optimizer_state_can_be_set_like_everything_else(trained):
    """What the mapping shows is what is loaded."""
    path, net, _ = trained
    parameters = load_checkpoint(path)
    parameters["optimizer.fc.bias.exp_avg"] = torch.full((2,), 7.0)
    optimizer = torch.optim.Adam(net.parameters())
    load_param_into_net(optimizer, parameters)
    assert optimizer.state[net["fc"].bias]["exp_avg"].tolist() == [7.0, 7.0]


def test_what_was_loaded_is_saved_as_what_it_was(trained, tmp_path):
    """Kinds, facts and optimizer state survive a copy of the checkpoint."""
    path, net, optimizer = trained
    copied = load_checkpoint(save_checkpoint(load_checkpoint(path), tmp_path / "copy.ckpt"))
    assert {name: copied.kind(name) for name in copied} == {name: load_checkpoint(path).kind(name) for name in copied}
    assert copied.metadata["global_step"] == 1
    fresh = torch.optim.Adam(net.parameters())
    load_param_into_net(fresh, copied, strict_load=True)
    assert torch.equal(fresh.state[net["fc"].weight]["exp_avg"], optimizer.state[net["fc"].weight]["exp_avg"])


@pytest.fixture
def averaged(path):
    """A checkpoint of a network and, as the part `ema`, its average whose weights are all 3: path, network, average."""
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    ema = torch.optim.swa_utils.AveragedModel(net)
    nn.init.constant_(ema.module[0].weight, 3.0)
    snapshot = Snapshot()
    modules.take(net, snapshot)
    modules.take(ema, snapshot, "ema.")
    store(LocalStorage(path.parent), path.name, snapshot, {})
    return path, net, ema


def test_a_part_loads_as_if_it_were_the_network(averaged):
    """Averaged weights go into the plain network; what only the average has is told."""
    path, net, _ = averaged
    parameters = load_checkpoint(path, net=net, part="ema")
    assert net[0].weight.unique().tolist() == [3.0]
    assert parameters.report.unexpected == ("n_averaged",)
    assert list(parameters)[:2] == ["n_averaged", "module.0.weight"]
    assert "n_averaged" not in load_checkpoint(path)


def test_a_part_loads_into_the_module_that_it_was_saved_from(averaged):
    """Strictly, as the resume does; a copy of the file still has it."""
    path, net, ema = averaged
    save_checkpoint(load_checkpoint(path), path)
    fresh = torch.optim.swa_utils.AveragedModel(net)
    prepare(fresh, load_checkpoint(path), strict=True, part="ema").apply()
    assert all(torch.equal(value, ema.state_dict()[name]) for name, value in fresh.state_dict().items())
    assert save_checkpoint(load_checkpoint(path, part="ema"), path) == path
    assert load_checkpoint(path, net=fresh, strict_load=True).report.renamed == ()


def test_a_part_has_its_own_tied_tensors_and_extra_state(path):
    """Aliases and `get_extra_state` work in a part as in the network."""

    class Part(nn.Module):
        def __init__(self, note):
            super().__init__()
            self.a = self.b = nn.Linear(2, 2)
            self.note = note

        def get_extra_state(self):
            return {"note": self.note}

        def set_extra_state(self, state):
            self.note = state["note"]

    snapshot = Snapshot()
    modules.take(nn.Linear(1, 1), snapshot)
    modules.take(Part(torch.ones(2)), snapshot, "more.")
    store(LocalStorage(path.parent), path.name, snapshot, {})
    save_checkpoint(load_checkpoint(path), path)
    target = Part(None)
    parameters = load_checkpoint(path, net=target, part="more", strict_load=True)
    assert target.note.tolist() == [1.0, 1.0]
    assert parameters["a.weight"] is parameters["b.weight"]


@pytest.mark.parametrize("has_parts", [True, False])
def test_an_unknown_part_is_told_with_those_that_are_there(averaged, has_parts):
    """A typing error is answered by the list."""
    path, net, _ = averaged
    if not has_parts:
        save_checkpoint(net, path)
    with pytest.raises(NothingLoadedError, match="the parts ema;" if has_parts else "no further parts"):
        load_checkpoint(path, part="eva")
    with pytest.raises(NothingLoadedError, match="a part 'second'"):
        prepare(torch.optim.SGD(net.parameters()), load_checkpoint(path), strict=True, part="second")


def test_of_several_optimizers_the_part_says_which(path):
    """Each has its key in the state."""
    nets = {"optimizer": nn.Linear(2, 1), "second": nn.Linear(2, 1)}
    snapshot = Snapshot()
    for rate, (key, net) in enumerate(nets.items(), start=1):
        optimizers.take(torch.optim.SGD(net.named_parameters(), lr=rate), {}, snapshot, key)
    store(LocalStorage(path.parent), path.name, snapshot, {})
    for part, rate in {"": 1, "optimizer": 1, "second": 2}.items():
        target = torch.optim.SGD(nets["second"].named_parameters(), lr=9)
        prepare(target, load_checkpoint(path), strict=True, part=part).apply()
        assert target.param_groups[0]["lr"] == rate


def test_where_warnings_are_errors_an_incomplete_load_changes_nothing():
    """The warning comes before the first change."""
    net = nn.Linear(2, 1)
    before = net.weight.detach().clone()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="bias"):
            load_param_into_net(net, {"weight": torch.ones(1, 2)})
    assert torch.equal(net.weight, before)


@pytest.mark.filterwarnings("ignore:.*no name begins")
@pytest.mark.parametrize(
    "state",
    [[1], {"optimizer": {}}, {"optimizer": {"class": "Adam", "groups": [{"params": 3}]}}, {"extra": [1]}, {"extra": 3}],
    ids=str,
)
def test_metadata_that_is_sound_json_but_not_ours_is_told_as_damage(path, state):
    """The format invites other writers; what they write wrongly is no traceback."""
    tensor = torch.ones(3)
    array = Array(ArraySpec("weight", "float32", (3,)), "parameter", lambda: memoryview(tensor.numpy()).cast("B"))
    write(LocalStorage(path.parent), path.name, plan([array], {"state": state}))
    assert load_checkpoint(path)["weight"].tolist() == [1.0, 1.0, 1.0]
    net = nn.Linear(3, 1)
    with pytest.raises(DamagedCheckpointError, match="metadata"):
        load_checkpoint(path, net=net, filter_prefix="nothing")
        load_param_into_net(torch.optim.Adam(net.parameters()), load_checkpoint(path))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda path: load_param_into_net(nn.Linear(1, 1), str(path)), TypeError, "^parameter_dict: .*load_checkpoint"),
        (lambda path: load_param_into_net(nn.Linear(1, 1), None), TypeError, "^parameter_dict"),
        (lambda path: load_param_into_net(nn.Linear(1, 1), {1: torch.ones(1)}), TypeError, "^parameter_dict"),
        (lambda path: load_param_into_net(nn.Linear(1, 1), {}), NothingLoadedError, "found no names"),
        (lambda path: save_checkpoint({"a": 1}, None), TypeError, "^ckpt_file_name"),
        (lambda path: save_checkpoint({"a": 1}, ""), TypeError, "^ckpt_file_name"),
        (lambda path: save_checkpoint({1: torch.ones(1)}, path), TypeError, "^a name: found 1"),
        (lambda path: save_checkpoint({"a": 1}, path, append_dict=[1]), TypeError, "^append_dict"),
        (lambda path: save_checkpoint({"a": 2**70}, path), UnsupportedStateError, "^a: found int"),
        (lambda path: save_checkpoint({"a": np.array(["x"])}, path), UnsupportedStateError, "^a: found ndarray"),
        (lambda path: save_checkpoint({"a": np.array([object()])}, path), UnsupportedStateError, "^a: found ndarray"),
        (lambda path: load_checkpoint(path, filter_prefix=3), SettingError, "^filter_prefix"),
    ],
)
def test_bad_input_is_told_in_its_own_terms(path, call, error, message):
    """Where, what was found, what was expected, what to do: never a bare KeyError."""
    save_checkpoint({"weight": torch.ones(1)}, path)
    with pytest.raises(error, match=message) as caught:
        call(path)
    assert isinstance(caught.value, MilepostError)


@pytest.mark.parametrize(
    "array",
    [np.arange(5)[::-1], np.arange(3, dtype=">f4"), np.asfortranarray(np.eye(3))[1:], np.float32(2.5)],
    ids=repr,
)
def test_arrays_of_any_order_are_saved_by_value(path, array):
    """Reversed, big-endian, in column order: NumPy's business, not the file's."""
    save_checkpoint({"a": array}, path)
    assert np.array_equal(load_checkpoint(path)["a"].numpy(), array)


def test_an_error_keeps_its_errno_on_the_way_between_processes():
    """Process pools and loader workers send errors pickled."""
    error = SaveError("x.ckpt", found="No space left", expected="space", remedy="Free some.")
    error.errno = errno.ENOSPC
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.errno, again.remedy) == (str(error), errno.ENOSPC, "Free some.")


@pytest.mark.parametrize("form", ["values", "file"])
@pytest.mark.parametrize(
    ("beginning", "remedy"), [("model.", r"rename={'model\.': ''}"), ("", r"rename={'': 'net\.'}")]
)
def test_names_that_one_beginning_makes_fit_are_told_of(path, form, beginning, remedy):
    """Whole trainings are often saved as ``{"model": net.state_dict(), ...}``, and networks are put into others."""
    net = nn.Linear(2, 1)
    values = {f"{beginning}{name}": value for name, value in net.state_dict().items()}
    target = net if beginning else nn.ModuleDict({"net": nn.Linear(2, 1)})
    if form == "file":
        values = load_checkpoint(save_checkpoint(values, path))
    with pytest.raises(NothingLoadedError, match=f"2 of 2 entries fit with .*{remedy}") as caught:
        load_param_into_net(target, values)
    rename = eval(caught.value.remedy[caught.value.remedy.index("{") : caught.value.remedy.index("}") + 1])
    assert len(load_param_into_net(target, values, rename=rename).loaded) == 2


@pytest.mark.parametrize(
    "values",
    [
        {f"{part}.{name}": torch.ones(shape) for part in "ab" for name, shape in (("weight", (1, 2)), ("bias", 1))},
        {"model.weight": torch.ones(3, 3), "model.bias": torch.ones(1)},
        {"model.weight": torch.ones(1, 2), "model.bias": torch.ones(1), "model.epoch": 1, "epoch": 2},
    ],
    ids=["two parts that fit as well", "another shape", "two names that would be one"],
)
def test_a_beginning_that_would_not_make_them_fit_is_not_told(values):
    """Advice that fails is worse than none."""
    with pytest.raises(NothingLoadedError, match="Check that the checkpoint is of this network"):
        load_param_into_net(nn.Linear(2, 1), values)


def test_a_single_name_that_one_beginning_makes_fit_is_not_told():
    """By chance two networks may have one in common."""
    net = nn.Sequential(*[nn.Linear(1, 1) for _ in range(4)])
    with pytest.raises(NothingLoadedError, match="Check that"):
        load_param_into_net(net, {"model.0.weight": torch.ones(1, 1), "other": torch.ones(1)})


def test_of_a_renaming_of_the_user_s_own_no_other_is_told(path):
    """The two would not go together."""
    values = {"old.net.weight": torch.ones(1, 2), "old.net.bias": torch.ones(1)}
    with pytest.raises(NothingLoadedError, match="Check that"):
        load_param_into_net(nn.Linear(2, 1), values, rename={"old.": "new."})


@pytest.mark.parametrize("form", ["values", "file", "at once"])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rename": {"modle.": "", "old.": ""}}, "no name begins as rename={'modle.': '', 'old.': ''} says"),
        ({"filter_prefix": ["weigh", "head"]}, "no name begins as filter_prefix=['weigh', 'head'] says"),
    ],
)
def test_beginnings_that_no_name_has_are_told_of(path, settings, message, form):
    """They do nothing, and were hardly written for that."""
    net = nn.Linear(2, 1)
    save_checkpoint(net, path)
    where = "parameter_dict" if form == "values" else str(path)
    values = dict(net.state_dict()) if form == "values" else load_checkpoint(path)
    with pytest.warns(UserWarning, match=re.escape(f"{where}: {message}")) as told:
        report = (
            load_checkpoint(path, net=net, **settings).report
            if form == "at once"
            else load_param_into_net(net, values, **settings)
        )
    assert report.loaded == ("weight", "bias")
    assert [each.filename for each in told] == [__file__]


class Observer(nn.Module):
    """Nothing but what is no tensor."""

    def get_extra_state(self):
        return 3

    def set_extra_state(self, state):
        self.state = state


@pytest.mark.parametrize(
    "settings",
    [
        {"rename": {"weight": "weight", "other.": ""}},
        {"filter_prefix": ["bias", "head"], "rename": {"bias": "b"}},
        {"filter_prefix": "seen"},
        {"rename": {"seen.": "watched."}},
    ],
    ids=["one of them", "one that is left out", "what is no tensor is left out", "what is no tensor is renamed"],
)
@pytest.mark.filterwarnings("ignore:.*were not loaded")
def test_beginnings_that_some_name_has_are_not_told_of(path, settings):
    """Lists of them are often written for several networks."""
    net = nn.Linear(2, 1)
    net.add_module("seen", Observer())
    save_checkpoint(net, path)
    net.add_module("watched", net.seen)
    load_checkpoint(path, net=net, **settings)
    load_param_into_net(net, load_checkpoint(path), **settings)


def test_arguments_in_the_wrong_order_are_told():
    """Whatever else is given."""
    net = nn.Linear(2, 1)
    with pytest.raises(SettingTypeError, match="^net: found a dict.*Pass the object to load into first"):
        load_param_into_net(dict(net.state_dict()), net, rename={"a": "b"})


@pytest.mark.parametrize(
    ("name", "written"), [("a", "a.ckpt"), ("a.pt", "a.pt.ckpt"), ("a.safetensors", "a.safetensors")]
)
def test_a_name_says_in_which_format_it_is_saved(tmp_path, name, written):
    """As for `convert`; without one of the two endings it is a `.ckpt`."""
    path = save_checkpoint(nn.Linear(2, 1), tmp_path / name)
    assert path == tmp_path / written
    assert load_checkpoint(path).index.container == (
        "safetensors" if path.suffix == ".safetensors" else "milepost ckpt"
    )
    assert save_checkpoint(nn.Linear(2, 1), path, format=path.suffix[1:]) == path


@pytest.mark.parametrize(("name", "form"), [("a.ckpt", "safetensors"), ("a.safetensors", "ckpt")])
def test_a_name_that_says_another_format_is_refused(tmp_path, name, form):
    """One of the two is a mistake."""
    with pytest.raises(
        SettingError, match=f"^format: found '{form}' for {name}; expected '{name[2:]}', or a name that"
    ):
        save_checkpoint(nn.Linear(2, 1), tmp_path / name, format=form)
    assert list(tmp_path.iterdir()) == []


BODY = {"old.body.weight": torch.full((2, 3), 5.0), "old.body.bias": torch.zeros(2), "fc.weight": torch.ones(9, 2)}


@pytest.fixture
def new_net():
    return nn.ModuleDict({"body": nn.Linear(3, 2), "fc": nn.Linear(2, 4, bias=False)})


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize(
    "rename",
    [{"old.": ""}, {"old": "wrong", "old.body.": "body."}, lambda name: name.removeprefix("old.")],
    ids=["beginning", "longest", "function"],
)
def test_names_can_be_mapped_and_another_head_left_out(path, new_net, rename, from_file):
    """The body comes from the checkpoint, the head stays; both are told."""
    if from_file:
        save_checkpoint(BODY, path)
    head = new_net["fc"].weight.detach().clone()
    with pytest.warns(UserWarning, match=r"1 of its entries were not loaded: fc.weight: \(9, 2\) in the checkpoint"):
        report = load_param_into_net(
            new_net, load_checkpoint(path) if from_file else BODY, rename=rename, ignore_mismatched=True
        )
    assert report.loaded == ("body.weight", "body.bias")
    assert [(item.name, item.found, item.expected) for item in report.mismatched] == [("fc.weight", "(9, 2)", "(4, 2)")]
    assert report.renamed == (("old.body.weight", "body.weight"), ("old.body.bias", "body.bias"))
    assert list(report) == [["fc.weight"], []]
    assert new_net["body"].weight.unique().tolist() == [5.0]
    assert torch.equal(new_net["fc"].weight, head)


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.filterwarnings("ignore:.*were not loaded")
def test_prefixes_choose_among_what_is_loaded(path, new_net, from_file):
    """By the checkpoint's names; the mapping itself keeps all of them."""
    save_checkpoint(BODY, path)
    parameters = load_checkpoint(path) if from_file else BODY
    report = load_param_into_net(
        new_net, parameters, specify_prefix="old", filter_prefix="old.body.bias", rename={"old.": ""}
    )
    assert report.loaded == ("body.weight",)
    assert list(parameters) == list(BODY)


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({}, NothingLoadedError, "fc.weight"),
        ({"rename": {"old.": ""}}, MismatchError, r"fc.weight: \(9, 2\).*ignore_mismatched"),
        ({"ignore_mismatched": True}, NothingLoadedError, "only entries of another shape"),
        ({"ignore_mismatched": True, "strict_load": True}, SettingError, "^ignore_mismatched"),
        ({"rename": lambda name: "same"}, SettingError, "'same' as the new name of both 'old.body.weight' and 'old.b"),
        ({"rename": {"old.body.weight": "fc.weight"}}, SettingError, "'fc.weight' as the new name of both"),
        ({"rename": lambda name: None}, SettingTypeError, "^rename: found None for 'old.body.weight'"),
        ({"rename": {"old.": 3}}, SettingTypeError, "^rename"),
        ({"rename": ["old."]}, SettingTypeError, "^rename"),
    ],
    ids=[
        "another shape",
        "another shape under another name",
        "nothing but another shape",
        "strict, but ignoring",
        "one new name for several",
        "one new name for two",
        "no new name",
        "a number for a name",
        "a list",
    ],
)
def test_a_load_that_cannot_be_meant_changes_nothing(new_net, settings, error, message):
    """Each is told in its own terms."""
    before = copy.deepcopy(new_net.state_dict())
    parameters = BODY if settings else {"fc.weight": torch.ones(3)}
    with pytest.raises(error if settings else MismatchError, match=message):
        load_param_into_net(new_net, parameters, **settings)
    assert all(torch.equal(value, before[name]) for name, value in new_net.state_dict().items())


def test_another_dtype_is_not_ignored_with_other_shapes(new_net):
    """It is no other head, but another meaning."""
    values = {"body.weight": torch.ones(2, 3, dtype=torch.int64), "body.bias": torch.ones(2)}
    with pytest.raises(MismatchError, match=r"body.weight: torch.int64"):
        load_param_into_net(new_net, values, ignore_mismatched=True)


def test_names_of_an_optimizer_are_not_mapped(trained):
    """It goes by its parameters' names."""
    path, net, _ = trained
    with pytest.raises(SettingError, match="^rename: found an optimizer"):
        load_param_into_net(torch.optim.Adam(net.parameters()), load_checkpoint(path), rename={"a": "b"})


def test_arrays_that_were_set_load_as_tensors(path):
    """What may be saved may be set."""
    save_checkpoint(nn.Linear(3, 2), path)
    parameters = load_checkpoint(path)
    parameters["bias"] = np.full(2, 4.0)
    net = nn.Linear(3, 2)
    assert load_param_into_net(net, parameters).cast == (("bias", "torch.float64", "torch.float32"),)
    assert net.bias.tolist() == [4.0, 4.0]


@pytest.mark.slow
def test_the_memory_of_a_save_does_not_grow_with_the_model(tmp_path):
    """Contiguous tensors are written from their own memory, others one at a time."""
    script = """
import resource, sys, torch
from milepost import save_checkpoint
save_checkpoint({"warm": torch.ones(1000)}, sys.argv[1] + "/warm.ckpt")
tensors = {f"t{i}": torch.ones(4 << 20) for i in range(24)}  # 24 of 16 MiB
tensors["strided"] = torch.ones(4096, 1024).t()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
save_checkpoint(tensors, sys.argv[1] + "/large.ckpt")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], check=True, capture_output=True, text=True)
    grown_kib = int(done.stdout)
    assert grown_kib < 32 << 10


@pytest.mark.slow
@pytest.mark.parametrize(("device", "own_mib"), [("cpu", 0), ("meta", 192)])
def test_the_memory_of_a_load_does_not_hold_the_model_twice(tmp_path, device, own_mib):
    """Entries are read into the parameters' own memory, others one at a time."""
    script = """
import resource, sys, torch
from milepost import load_checkpoint, save_checkpoint
path = sys.argv[1] + "/large.ckpt"
small = torch.nn.Linear(2, 2)
load_checkpoint(save_checkpoint(small, sys.argv[1] + "/warm.ckpt"), net=small)
layers = [torch.nn.Linear(2048, 2048, bias=False) for _ in range(12)]  # 12 of 16 MiB
layers[0].weight = torch.nn.Parameter(layers[0].weight.t())
layers[1].half()
net = torch.nn.Sequential(*layers)
if sys.argv[2] == "save":
    save_checkpoint(net.float(), path)
    sys.exit()
net = net.to(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
load_checkpoint(path, net=net, strict_load=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""

    def run(what):
        return subprocess.run(
            [sys.executable, "-c", script, tmp_path, what], check=True, capture_output=True, text=True
        ).stdout

    run("save")
    assert int(run(device)) < (own_mib + 80) << 10  # a few copies of one entry
