"""`open_file`: every kind of file, told by its bytes; nothing in it runs, and torch is imported for torch's alone."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from milepost import load_checkpoint, save_checkpoint
from milepost.errors import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    DecryptionError,
    MilepostError,
    NotACheckpointError,
    SettingTypeError,
)
from milepost.interop.files import open_file

GOLDEN = Path(__file__).parents[1] / "golden" / "files"
KEY = b"0123456789abcdef"


def tensor_of(file, name):
    spec = file.entry(name).spec
    return torch.frombuffer(file.read(name), dtype=getattr(torch, spec.dtype)).reshape(spec.shape)


@pytest.fixture
def net():
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


WRITERS = {
    "milepost ckpt": lambda net, path: save_checkpoint(net, path.with_suffix(".ckpt")).rename(path),
    "safetensors": lambda net, path: safetensors.torch.save_file(net.state_dict(), path),
    "torch zip": lambda net, path: torch.save(net.state_dict(), path),
    "torch legacy": lambda net, path: torch.save(net.state_dict(), path, _use_new_zipfile_serialization=False),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_of_any_kind_is_opened_whatever_it_is_called(kind, net, tmp_path):
    """Its bytes tell; each entry is the tensor that was saved, and a network loads from it."""
    path = tmp_path / "file.dat"
    WRITERS[kind](net, path)
    with open_file(path) as file:
        assert file.container == kind
        assert file.where == str(path)
        file.verify()
        for name, tensor in net.state_dict().items():
            file.check([name])
            assert torch.equal(tensor_of(file, name), tensor)
            buffer = bytearray(tensor.nbytes)
            file.read_into([(name, memoryview(buffer))])
            assert buffer == file.read(name)
    twin = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    assert len(load_checkpoint(path, net=twin, strict_load=True).report.loaded) == 7
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())


def test_mindspores_files_are_named_with_how_they_are_encrypted():
    """Which takes the key and the mode; a wrong key, no key, another mode are told."""
    with open_file(GOLDEN / "adam.ckpt") as file:
        assert file.container == "mindspore ckpt"
    with open_file(GOLDEN / "encrypted.ckpt", dec_key=KEY) as file:
        assert file.container == "mindspore ckpt, AES-GCM"
        assert torch.equal(tensor_of(file, "weight"), torch.tensor([0.0, 1.0]))
        file.verify()
    assert load_checkpoint(GOLDEN / "encrypted.ckpt", dec_key=KEY)["weight"].tolist() == [0.0, 1.0]
    for settings, says in [
        ({}, "expected its key"),
        ({"dec_key": KEY[::-1]}, "does not open"),
        ({"dec_key": KEY, "dec_mode": "AES-CBC"}, "AES-GCM"),
    ]:
        with pytest.raises(DecryptionError, match=rf"encrypted\.ckpt.*{says}"):
            load_checkpoint(GOLDEN / "encrypted.ckpt", **settings)


def test_a_training_in_a_torch_file_becomes_dotted_names_and_json(tmp_path):
    """Nothing of it is lost: what is not a tensor is in the metadata, with references to the entries."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.Adam(net.parameters())
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    path = tmp_path / "last.pth"
    torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "tags": ["a"]}, path)
    with open_file(path) as file:
        assert list(file.index.entries)[:4] == [
            "model.weight",
            "model.bias",
            "optimizer.state.0.step",
            "optimizer.state.0.exp_avg",
        ]
        tree = file.index.metadata["tree"]
    assert (tree["epoch"], tree["tags"]) == (3, ["a"])
    assert tree["optimizer"]["param_groups"][0]["betas"] == {"$tuple": [0.9, 0.999]}
    twin = nn.Linear(2, 1)
    load_checkpoint(path, net=twin, rename={"model.": ""}, specify_prefix="model")
    assert torch.equal(twin.weight, net.weight)


def test_tied_weights_of_a_torch_file_are_one_entry(tmp_path):
    """The second name is an alias, as in Milepost's own files."""
    tied = torch.ones(3)
    torch.save(
        {"a": tied, "b": tied, "c": tied[1:], "none": torch.ones(0), "none too": torch.ones(0)}, tmp_path / "x.pt"
    )
    with open_file(tmp_path / "x.pt") as file:
        assert list(file.index.entries) == ["a", "c", "none", "none too"]
        assert dict(file.index.aliases) == {"b": "a"}
        assert file.read("b") == file.read("a")
        assert file.index.metadata == {}


class Trap:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda path: {"w": torch.ones(1), "x": Trap(path / "marker")}, "mkdir", id="code"),
        pytest.param(lambda _: nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear", id="module"),
        pytest.param(lambda _: {"epoch": 3}, "no tensors", id="no tensors"),
        pytest.param(lambda _: torch.ones(1), "without a name", id="a bare tensor"),
        pytest.param(lambda _: {"a.b": torch.ones(1), "a": {"b": torch.ones(2)}}, "'a.b'.*two", id="name twice"),
        pytest.param(lambda _: {"w": torch.ones(2).to_sparse()}, "sparse", id="sparse"),
        pytest.param(lambda _: {"w": torch.ones(1).expand(1 << 30)}, "'w'.*share memory", id="more than the file has"),
        pytest.param(lambda _: {"w": torch.ones(1), "x": 1j}, "x: .*complex", id="no word for it"),
        pytest.param(lambda _: {"w": torch.empty(1, device="meta")}, "w: .*meta", id="no data"),
    ],
)  # fmt: skip
def test_a_torch_file_of_more_than_plain_data_is_refused(make, says, is_zip, tmp_path):
    """By what is in it; nothing runs."""
    torch.save(make(tmp_path), tmp_path / "x.pt", _use_new_zipfile_serialization=is_zip)
    for read in (open_file, load_checkpoint):
        with pytest.raises(NotACheckpointError, match=rf"x\.pt.*{says}"):
            read(tmp_path / "x.pt")
    assert not (tmp_path / "marker").exists()


def test_zip_archives_of_others_are_refused(tmp_path):
    """Also those that would unpack to more than they are."""
    for content, kind in (
        ({"a/data.pkl": bytes(1 << 20)}, zipfile.ZIP_DEFLATED),
        ({"a.txt": b"text"}, zipfile.ZIP_STORED),
    ):
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", kind) as archive:
            for name, text in content.items():
                archive.writestr(name, text)
        (tmp_path / "x.pt").write_bytes(file.getvalue())
        with pytest.raises(NotACheckpointError, match="zip archive"):
            open_file(tmp_path / "x.pt")


@pytest.mark.parametrize("is_zip", [True, False])
def test_a_damaged_torch_file_ends_in_our_errors(is_zip, tmp_path):
    """Whatever torch raises; and a zip archive's CRC-32 finds what torch.load does not look at."""
    path = tmp_path / "x.pt"
    torch.save({"w": torch.arange(4.0)}, path, _use_new_zipfile_serialization=is_zip)
    sound = path.read_bytes()
    for length in range(len(sound) - 1, 0, -97):
        path.write_bytes(sound[:length])
        with pytest.raises(MilepostError):
            open_file(path)
    if is_zip:
        path.write_bytes(sound.replace(torch.tensor(3.0).numpy().tobytes(), b"\0\0\0\1"))
        with open_file(path) as file, pytest.raises(DamagedCheckpointError, match="CRC-32"):
            file.verify()


def sharded(folder, *, texts=None, weights=None):
    """Two shards by the safetensors package, and an index."""
    safetensors.torch.save_file({"a": torch.ones(2), "b": torch.zeros(3)}, folder / "m-00001-of-00002.safetensors")
    safetensors.torch.save_file({"c": torch.arange(4)}, folder / "m-00002-of-00002.safetensors")
    weights = weights or {
        "a": "m-00001-of-00002.safetensors",
        "b": "m-00001-of-00002.safetensors",
        "c": "m-00002-of-00002.safetensors",
    }
    path = folder / "m.safetensors.index.json"
    path.write_text(json.dumps({"metadata": texts or {"total_size": 52}, "weight_map": weights}, indent=2))
    return path


def test_shards_are_one_file(tmp_path):
    """Every name is read from its shard."""
    with open_file(sharded(tmp_path)) as file:
        assert file.container == "safetensors, 2 shards"
        assert sorted(file.index.entries) == ["a", "b", "c"]
        assert file.index.nbytes == sum(path.stat().st_size for path in tmp_path.glob("*.safetensors"))
        assert torch.equal(tensor_of(file, "c"), torch.arange(4))
        file.check(["a"])
        file.verify()
    assert load_checkpoint(sharded(tmp_path))["a"].tolist() == [1, 1]


def test_shards_of_torch_files_are_one_file_too(tmp_path):
    """As Hugging Face's libraries cut them before safetensors."""
    tied = torch.ones(2)
    torch.save({"a": tied, "b": tied}, tmp_path / "m-1.bin")
    torch.save({"c": torch.zeros(1)}, tmp_path / "m-2.bin")
    (tmp_path / "m.bin.index.json").write_text(
        json.dumps({"weight_map": {"a": "m-1.bin", "b": "m-1.bin", "c": "m-2.bin"}})
    )
    with open_file(tmp_path / "m.bin.index.json") as file:
        assert file.container == "torch zip, 2 shards"
        assert (file.read("b"), file.read("c")) == (file.read("a"), bytearray(4))


@pytest.mark.parametrize(
    ("weights", "kind", "says"),
    [
        ({"a": "missing.safetensors"}, CheckpointNotFoundError, "no shard missing"),
        ({"a": "m-00001-of-00002.safetensors"}, DamagedCheckpointError, "other names than the index says"),
        ({"a": "../m-00001-of-00002.safetensors"}, DamagedCheckpointError, "a shard called"),
        ({"a": "/etc/passwd"}, DamagedCheckpointError, "a shard called"),
        ({"a": ".."}, DamagedCheckpointError, "a shard called"),
        ({"a": "a\0b"}, DamagedCheckpointError, "a shard called"),
        ({"a": "m.safetensors.index.json"}, NotACheckpointError, "begins with"),
        ({"a": 5}, NotACheckpointError, "names no files"),
    ],
)
def test_an_index_that_does_not_fit_its_shards_is_refused(weights, kind, says, tmp_path):
    """And no name in it leads out of its folder, or back to itself."""
    with pytest.raises(kind, match=says):
        open_file(sharded(tmp_path, weights=weights))


@pytest.mark.parametrize(
    "text", ["{}", "{", '{"weight_map": {}}', '{"weight_map": 1}', '{"weight_map": {"a": []}}', "{\xff"]
)
def test_other_json_is_refused(text, tmp_path):
    """Named as what it is."""
    (tmp_path / "x.json").write_text(text, encoding="latin-1")
    with pytest.raises(NotACheckpointError, match="JSON|weight_map"):
        open_file(tmp_path / "x.json")


def test_what_is_no_path_and_what_is_not_there_are_told():
    """As everywhere."""
    with pytest.raises(SettingTypeError):
        open_file(3)
    with pytest.raises(CheckpointNotFoundError):
        open_file("nowhere.ckpt")


def test_an_ordered_dict_keeps_its_attributes(tmp_path):
    """torch keeps the versions of a module's parts there."""
    states = OrderedDict(w=torch.ones(1))
    states._metadata = {"": {"version": 2}}
    torch.save(states, tmp_path / "x.pt")
    with open_file(tmp_path / "x.pt") as file:
        assert file.index.metadata["tree"] == {
            "$ordered": [[["w", {"$entry": "w"}]], {"_metadata": {"": {"version": 2}}}]
        }


def test_torch_is_imported_for_torchs_files_only(net, tmp_path):
    """Tools that look at files start at once."""
    paths = [save_checkpoint(net, tmp_path / "a.ckpt"), sharded(tmp_path), tmp_path / "m-00001-of-00002.safetensors"]
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from milepost.interop.files import open_file\n"
        "for path in sys.argv[1:]: open_file(path).verify()\n"
        f"open_file({str(GOLDEN / 'encrypted.ckpt')!r}, dec_key={KEY!r}).verify()"
    )
    done = subprocess.run([sys.executable, "-c", code, *map(str, paths)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
