"""`convert`: between all kinds of files, bit for bit and there and back again; others' packages are the judges."""

from __future__ import annotations

import errno
import json
import math
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from milepost import convert, load_checkpoint, save_checkpoint
from milepost.engine.writer import write
from milepost.errors import (
    CheckpointNotFoundError,
    DamagedCheckpointError,
    NotACheckpointError,
    SaveError,
    SettingError,
    SettingTypeError,
)
from milepost.format.ckpt_plan import plan
from milepost.format.dtypes import DTYPES
from milepost.format.spec import KINDS, Array, ArraySpec
from milepost.format.text import encode_text
from milepost.interop.files import open_file
from milepost.state.tensors import TO_TORCH
from milepost.storage.local import LocalStorage

KEY = b"0123456789abcdef"
GOLDEN = Path(__file__).parents[1] / "golden" / "files"
ENDINGS = (".ckpt", ".safetensors", ".pt", ".pth", ".bin")
FORMATS = (".ckpt", ".safetensors", ".pt")


def filled(dtype, shape, seed) -> bytes:
    content = random.Random(seed).randbytes(math.prod(shape) * DTYPES[dtype].itemsize)
    return bytes(byte & 1 for byte in content) if dtype == "bool" else content


def array(name, dtype, shape, kind="parameter") -> Array:
    content = encode_text(f"gelernt: 你好 {name}") if dtype == "str" else filled(dtype, shape, name)
    return Array(ArraySpec(name, dtype, () if dtype == "str" else shape), kind, lambda: memoryview(content))


METADATA = {"epoch": 3, "state": {"optimizer": {"groups": [{"lr": 0.1}]}}, "metrics": {"loss": "nan"}}


def checkpoint(path, arrays, metadata=METADATA, aliases=None) -> Path:
    write(LocalStorage(path.parent), path.name, plan(arrays, metadata, aliases or {}))
    return path


def everything(path) -> Path:
    """A `.ckpt` with every dtype, shapes of every sort, every kind, tied weights, texts, and metadata."""
    arrays = [array(f"matrix.{dtype}", dtype, (2, 3)) for dtype in DTYPES]
    arrays += [array(f"scalar.{dtype}", dtype, ()) for dtype in DTYPES]
    arrays += [array(f"empty.{dtype}", dtype, (0, 3)) for dtype in DTYPES if dtype != "str"]
    arrays += [array(f"kind.{kind}", "float32", (3,), kind) for kind in KINDS]
    return checkpoint(path, arrays, aliases={"tied": "matrix.float32", "tied too": "matrix.float32"})


def told(path, **key) -> tuple:
    """All that a file says, but for where it stands."""
    with open_file(path, **key) as file:
        file.verify()
        entries = {
            name: (entry.spec, entry.kind, entry.checksum, bytes(file.read(name)))
            for name, entry in file.index.entries.items()
        }
        return list(entries.items()), dict(file.index.aliases), dict(file.index.metadata)


@pytest.mark.parametrize("first", FORMATS)
@pytest.mark.parametrize("second", ENDINGS)
def test_everything_goes_there_and_back(first, second, tmp_path):
    """Through any two kinds of files: each entry to the bit, order, kinds, checksums, tied weights, texts, metadata."""
    source = everything(tmp_path / "source.ckpt")
    path = convert(convert(source, tmp_path / f"first{first}"), tmp_path / f"second{second}")
    assert path == tmp_path / f"second{second}"
    assert told(path) == told(source)
    assert told(convert(path, tmp_path / "back.ckpt")) == told(source)
    assert (tmp_path / "back.ckpt").read_bytes() == source.read_bytes()


def test_torch_and_safetensors_read_what_is_written(tmp_path):
    """By their own safe ways; tied weights are one tensor in torch."""
    source = everything(tmp_path / "source.ckpt")
    loaded = torch.load(convert(source, tmp_path / "x.pt"), weights_only=True)
    safe = safetensors.torch.load_file(convert(source, tmp_path / "x.safetensors"))
    entries, aliases, _ = told(source)
    assert set(loaded) == {name for name, _ in entries} | set(aliases)
    assert loaded["tied"] is loaded["tied too"] is loaded["matrix.float32"]
    for name, (spec, _, _, content) in entries:
        if spec.dtype == "str":
            assert loaded[name] == content.decode("utf-32-le")
            continue
        assert (loaded[name].dtype, tuple(loaded[name].shape)) == (TO_TORCH[spec.dtype], spec.shape)
        assert loaded[name].reshape(-1).view(torch.uint8).numpy().tobytes() == content
        assert safe[name].reshape(-1).view(torch.uint8).numpy().tobytes() == content


@pytest.mark.parametrize("golden", sorted(path.name for path in GOLDEN.glob("*.ckpt")))
def test_mindspores_files_become_any_other(golden, tmp_path):
    """With slices joined and texts kept; what Milepost then says of their contents is true."""
    key = {"dec_key": KEY} if golden == "encrypted.ckpt" else {}
    expected = [(name, spec, content) for name, (spec, _, _, content) in told(GOLDEN / golden, **key)[0]]
    for ending in FORMATS:
        path = convert(GOLDEN / golden, tmp_path / f"x{ending}", **key)
        assert [(name, spec, content) for name, (spec, _, _, content) in told(path)[0]] == expected
        path.unlink()


@pytest.mark.parametrize("is_zip", [True, False])
@pytest.mark.parametrize("through", FORMATS)
def test_a_training_in_a_torch_file_comes_back_as_it_was(is_zip, through, tmp_path):
    """Types, order, keys that are no texts, tied weights, the attributes of ordered dicts."""
    net = nn.Linear(2, 1)
    optimizer = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    net(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    tied = torch.ones(3)
    saved = {
        "model": net.state_dict(), "optimizer": optimizer.state_dict(), "epoch": 3, "loss": float("inf"), "none": None,
        "list": [1, (2, "x"), torch.zeros(2, dtype=torch.bfloat16)], 5: {"a": tied, "b": tied},
    }  # fmt: skip
    torch.save(saved, tmp_path / "a.pt", _use_new_zipfile_serialization=is_zip)
    path = convert(convert(tmp_path / "a.pt", tmp_path / f"b{through}"), tmp_path / "c.pt")
    found = torch.load(path, weights_only=True)
    assert str(found) == str(saved)
    assert list(found["model"]._metadata) == list(net.state_dict()._metadata)
    assert found[5]["a"] is found[5]["b"]
    nn.Linear(2, 1).load_state_dict(found["model"])
    torch.optim.SGD(net.parameters(), 0.1).load_state_dict(found["optimizer"])


def test_a_tree_that_does_not_lead_to_every_entry_loses_none(tmp_path):
    """Then the names are what is saved."""
    for tree in ({"a": {"$entry": "a"}}, {"a": {"$entry": "gone"}}, {"$tuple": 3}, 5):
        path = checkpoint(tmp_path / "x.ckpt", [array("a", "int8", (2,)), array("b", "int8", (2,))], {"tree": tree})
        assert told(convert(path, tmp_path / "x.pt")) == told(path)


def test_a_network_is_loaded_from_any(tmp_path):
    """And torch's own load_state_dict takes the dict as it is."""
    net = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    source = save_checkpoint(net, tmp_path / "net.ckpt")
    for ending in FORMATS[1:]:
        twin = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
        load_checkpoint(convert(source, tmp_path / f"net{ending}"), net=twin, strict_load=True)
        assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())
    twin.load_state_dict(torch.load(tmp_path / "net.pt", weights_only=True), strict=True)


names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6).filter(
    lambda name: name != "__metadata__"
)
shapes = st.lists(st.integers(0, 3), max_size=3).map(tuple)
values = st.tuples(st.sampled_from(sorted(DTYPES)), shapes, st.sampled_from(KINDS))
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | names,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=6,
)


@given(
    st.dictionaries(names, values, max_size=4),
    st.dictionaries(names, json_values, max_size=3),
    st.lists(st.sampled_from(FORMATS), min_size=1, max_size=3),
    st.data(),
)
@settings(deadline=None, max_examples=50)
def test_any_checkpoint_survives_any_way(tmp_path_factory, arrays, metadata, way, data):
    """Whatever it holds, and however often it is converted."""
    folder = tmp_path_factory.mktemp("way")
    aliases = (
        data.draw(
            st.dictionaries(names.filter(lambda name: name not in arrays), st.sampled_from(sorted(arrays)), max_size=2)
        )
        if arrays
        else {}
    )
    path = source = checkpoint(
        folder / "s.ckpt", [array(name, *value) for name, value in arrays.items()], metadata, aliases
    )
    for number, ending in enumerate(way):
        path = convert(path, folder / f"{number}{ending}")
    assert told(path) == told(source)


@pytest.mark.parametrize("max_shard_nbytes", [1, 100, 10_000])
def test_shards_are_as_hugging_faces(max_shard_nbytes, tmp_path):
    """None larger than asked for but by a single tensor; names, index, and each a file that safetensors reads."""
    source = everything(tmp_path / "source.ckpt")
    path = convert(source, tmp_path / "m.safetensors", max_shard_nbytes=max_shard_nbytes)
    entries, *_ = told(source)
    if max_shard_nbytes == 10_000:
        assert (path, told(path)) == (tmp_path / "m.safetensors", told(source))
        return
    assert path == tmp_path / "m.safetensors.index.json"
    index = json.loads(path.read_text())
    shards = sorted(set(index["weight_map"].values()))
    assert shards == [f"m-{number:05}-of-{len(shards):05}.safetensors" for number in range(1, len(shards) + 1)]
    assert set(index["weight_map"]) == {name for name, _ in entries}
    assert index["metadata"]["total_size"] == sum(len(content) for _, (*_, content) in entries)
    for shard in shards:
        found = safetensors.torch.load_file(tmp_path / shard)
        assert set(found) == {name for name, file in index["weight_map"].items() if file == shard}
        assert len(found) == 1 or sum(tensor.nbytes for tensor in found.values()) <= max_shard_nbytes
    assert told(path) == told(source)
    assert told(convert(path, tmp_path / "back.ckpt")) == told(source)
    assert (tmp_path / "back.ckpt").read_bytes() == source.read_bytes()


def test_shards_of_two_conversions_do_not_mix(tmp_path):
    """Each shard is sound by itself; the index knows the checksums."""
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_checkpoint({"x": torch.full((4,), value), "y": torch.zeros(4)}, tmp_path / f"{name}.ckpt")
        (tmp_path / name).mkdir()
        convert(tmp_path / f"{name}.ckpt", tmp_path / name / "m.safetensors", max_shard_nbytes=16)
    os.replace(tmp_path / "a" / "m-00001-of-00002.safetensors", tmp_path / "b" / "m-00001-of-00002.safetensors")
    with pytest.raises(DamagedCheckpointError, match="another 'x'"):
        open_file(tmp_path / "b" / "m.safetensors.index.json")


def test_shards_are_replaced_in_one_step(tmp_path, monkeypatch):
    """At every commit the index leads to one whole model, the old or the new; then the old shards go."""
    for name, value in (("old", 1.0), ("new", 2.0)):
        save_checkpoint({"x": torch.full((4,), value), "y": torch.full((4,), value)}, tmp_path / f"{name}.ckpt")
    target = tmp_path / "m" / "m.safetensors"
    path = convert(tmp_path / "old.ckpt", target, max_shard_nbytes=16)
    (target.parent / "m-00003-of-00009.safetensors").write_text("somebody else's")
    seen = []
    replace = os.replace

    def watch(source, final):
        with open_file(path) as file:
            file.verify()
            seen.append(set(bytes(file.read("x") + file.read("y"))))
        return replace(source, final)

    monkeypatch.setattr(os, "replace", watch)
    assert convert(tmp_path / "new.ckpt", target, max_shard_nbytes=16) == path
    monkeypatch.undo()
    assert len(seen) == 3
    assert all(found == seen[0] for found in seen)
    assert load_checkpoint(path)["y"].tolist() == [2.0] * 4
    files = sorted(file.name for file in target.parent.iterdir())
    assert len(files) == 4
    assert "m-00003-of-00009.safetensors" in files
    assert "m-00001-of-00002.safetensors" not in files


def failure(action):
    """What it raised, or None."""
    try:
        action()
    except OSError as error:
        return error
    return None


def refusing(monkeypatch, number):
    """Let the n-th write of this process fail, as on a full disk."""
    writes = iter(range(10**6))
    for name in ("write", "writev", "pwritev", "pwrite"):
        system_call = getattr(os, name)

        def refuse(*arguments, system_call=system_call, **more):
            if next(writes) == number:
                raise OSError(errno.ENOSPC, "No space left on device")
            return system_call(*arguments, **more)

        monkeypatch.setattr(os, name, refuse)


@pytest.mark.parametrize("name", ["m.ckpt", "m.safetensors", "m.pt", "shards"])
def test_a_full_disk_costs_nothing_that_is_there(name, tmp_path, monkeypatch):
    """The target is as before, and nothing unfinished is left, at whichever write it is."""
    source = save_checkpoint({"x": torch.ones(4), "y": torch.zeros(4)}, tmp_path / "source.ckpt")
    options = {"max_shard_nbytes": 16} if name == "shards" else {}
    target = tmp_path / "m" / ("m.safetensors" if name == "shards" else name)
    path = convert(source, target, **options)
    before = {file.name: file.read_bytes() for file in target.parent.iterdir()}
    for number in range(100):
        with monkeypatch.context() as patched:
            refusing(patched, number)
            caught = failure(lambda: convert(source, target, **options))
        if caught is None:
            break
        assert (type(caught), caught.errno) == (SaveError, errno.ENOSPC)
        assert {file.name: file.read_bytes() for file in target.parent.iterdir()} == before
        assert told(path)
    assert number > 0


def test_a_damaged_source_leaves_the_target_as_it_was(tmp_path):
    """Its contents are checked on the way."""
    source = save_checkpoint({"x": torch.ones(4), "y": torch.zeros(4)}, tmp_path / "source.ckpt")
    source.write_bytes(source.read_bytes().replace(torch.ones(4).numpy().tobytes(), bytes(15) + b"\1"))
    for ending in FORMATS:
        target = tmp_path / f"m{ending}"
        target.write_text("precious")
        with pytest.raises(DamagedCheckpointError, match="'x'"):
            convert(source, target)
        assert target.read_text() == "precious"
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_can_be_converted_onto_itself(tmp_path):
    """It is read to its end before it is replaced."""
    path = save_checkpoint({"x": torch.ones(4)}, tmp_path / "x.ckpt")
    (tmp_path / "x.ckpt").rename(tmp_path / "x.safetensors")
    before = told(tmp_path / "x.safetensors")
    assert told(convert(tmp_path / "x.safetensors", tmp_path / "x.safetensors")) == before
    assert not path.exists()


def test_encrypted_files_are_read_and_written(tmp_path):
    """Which is how a file is encrypted, decrypted, or given another key."""
    source = everything(tmp_path / "source.ckpt")
    path = convert(source, tmp_path / "secret.ckpt", enc_key=KEY, enc_mode="AES-CBC")
    other = convert(path, tmp_path / "other.ckpt", dec_key=KEY, dec_mode="AES-CBC", enc_key=KEY[::-1])
    assert told(other, dec_key=KEY[::-1]) == told(source)
    assert convert(other, tmp_path / "plain.ckpt", dec_key=KEY[::-1]).read_bytes() == source.read_bytes()
    assert told(convert(source, tmp_path / "crc.ckpt", crc_check=True)) == told(source)


@pytest.mark.parametrize(
    ("dst", "options", "kind", "says"),
    [
        ("x.onnx", {}, SettingError, "x.onnx: found .*'.onnx'.*.safetensors"),
        ("x", {}, SettingError, "x: found a name that ends in ''"),
        (3, {}, SettingTypeError, "dst"),
        ("x.pt", {"enc_key": KEY}, SettingError, "enc_key"),
        ("x.pt", {"crc_check": True}, SettingError, "crc_check"),
        ("x.safetensors", {"enc_key": KEY}, SettingError, "enc_key"),
        ("x.ckpt", {"max_shard_nbytes": 5}, SettingError, "max_shard_nbytes"),
        ("x.safetensors", {"max_shard_nbytes": 0}, SettingError, "max_shard_nbytes"),
        ("x.safetensors", {"max_shard_nbytes": 1.5}, SettingTypeError, "max_shard_nbytes"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(dst, options, kind, says, tmp_path):
    """By the name of the setting."""
    source = save_checkpoint({"x": torch.ones(4)}, tmp_path / "source.ckpt")
    with pytest.raises(kind, match=says):
        convert(source, tmp_path / dst if isinstance(dst, str) else dst, **options)
    assert list(tmp_path.iterdir()) == [source]


def test_shards_beside_a_single_file_of_that_name_are_refused(tmp_path):
    """Others would go on reading the single file."""
    source = save_checkpoint({"x": torch.ones(4), "y": torch.ones(4)}, tmp_path / "source.ckpt")
    convert(source, tmp_path / "m.safetensors")
    with pytest.raises(SettingError, match="Move it away"):
        convert(source, tmp_path / "m.safetensors", max_shard_nbytes=16)


def test_sources_that_cannot_be_read_are_told(tmp_path):
    """As when they are opened."""
    with pytest.raises(CheckpointNotFoundError):
        convert(tmp_path / "nothing.ckpt", tmp_path / "x.pt")
    (tmp_path / "a.ckpt").write_text("hello world")
    with pytest.raises(NotACheckpointError):
        convert(tmp_path / "a.ckpt", tmp_path / "x.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]


MEASURE = """
import sys, threading, time
import torch
from milepost import convert

def own_kib():  # memory that is no file's, which the system could take back
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def watch():
    while True:
        seen.append(own_kib())
        time.sleep(0.002)

folder, first, second = sys.argv[1:]
convert(convert(folder + "/small.ckpt", folder + "/s" + first), folder + "/t" + second)
before, seen = own_kib(), []
threading.Thread(target=watch, daemon=True).start()
convert(convert(folder + "/large.ckpt", folder + "/l" + first), folder + "/m" + second)
print(max(seen) - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("first", "second"), [(".safetensors", ".ckpt"), (".pt", ".safetensors"), (".pth", ".pt")])
def test_memory_does_not_grow_with_the_model(first, second, tmp_path):
    """One tensor of 1 MiB at a time, of a model of 128 MiB."""
    save_checkpoint({"w": torch.ones(1 << 18)}, tmp_path / "small.ckpt")
    ones = torch.ones(1 << 18)
    save_checkpoint({f"w{number}": ones + number for number in range(128)}, tmp_path / "large.ckpt")
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, tmp_path, first, second], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 32 << 10  # KiB
    assert told(tmp_path / f"m{second}")[0] == told(tmp_path / "large.ckpt")[0]


def small_net():
    return nn.Sequential(nn.Conv2d(1, 2, 3, bias=False), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(32, 3))


@pytest.mark.parametrize("ending", FORMATS)
def test_mindspores_names_are_understood_in_any_container(ending, tmp_path):
    """Those that MindSpore wrote, and those that a dialect wrote: the network loads as from the file itself."""
    net = small_net()
    ours = save_checkpoint(net, tmp_path / "ours.ckpt", dialect="mindspore")
    for source in (ours, GOLDEN / "momentum.ckpt"):
        expected, found = small_net(), small_net()
        load_checkpoint(source, net=expected)
        load_checkpoint(convert(source, tmp_path / f"x{ending}"), net=found)
        assert all(torch.equal(value, expected.state_dict()[name]) for name, value in found.state_dict().items())


def test_a_conjugate_is_not_the_tensor_whose_memory_it_has(tmp_path):
    """Only a bit of its own says so."""
    value = torch.tensor([1 + 2j, 3 - 4j])
    torch.save({"a": value, "b": value.conj()}, tmp_path / "x.pt")
    loaded = load_checkpoint(convert(tmp_path / "x.pt", tmp_path / "x.ckpt"))
    assert torch.equal(loaded["a"], value)
    assert torch.equal(loaded["b"], value.conj().resolve_conj())


def test_a_mark_of_ours_that_is_none_is_passed_over(tmp_path):
    """Anybody may hang anything on a dict."""
    from collections import OrderedDict

    tree = OrderedDict(w=torch.ones(2))
    tree._milepost = 5
    torch.save(tree, tmp_path / "x.pt")
    with open_file(tmp_path / "x.pt") as file:
        assert list(file.index.entries) == ["w"]


def test_shards_stay_when_their_index_has_its_name_and_then_something_fails(tmp_path, monkeypatch):
    """An interrupt, or a disk that fails, after the rename: a reader finds what the new index leads to."""
    source = save_checkpoint({"a": torch.ones(100), "b": torch.zeros(100)}, tmp_path / "n.ckpt")
    convert(source, tmp_path / "m.safetensors", max_shard_nbytes=400)
    newer = save_checkpoint({"a": torch.full((100,), 2.0), "b": torch.zeros(100)}, tmp_path / "o.ckpt")
    replace = os.replace

    def interrupted(old, new):
        replace(old, new)
        if str(new).endswith(".index.json"):
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            convert(newer, tmp_path / "m.safetensors", max_shard_nbytes=400)
    with open_file(tmp_path / "m.safetensors.index.json") as file:
        file.verify()
        assert bytes(file.read("a")) == bytes(torch.full((100,), 2.0).numpy())
