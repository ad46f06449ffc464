"""Every command that reads, on every kind of file that Milepost reads."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from milepost import CheckpointConfig, CheckpointManager, save_checkpoint
from milepost.format.safetensors import plan as safetensors_plan
from milepost.state.tensors import array_of

GOLDEN = Path(__file__).parents[1] / "golden/files"
KEY = b"0123456789abcdef"


def weights(value: float) -> dict[str, torch.Tensor]:
    return {"fc.weight": torch.full((2, 3), value), "fc.bias": torch.tensor([1.0, 2.0])}


def torch_zip(path: Path, value: float) -> None:
    torch.save(weights(value), path)


def torch_legacy(path: Path, value: float) -> None:
    torch.save(weights(value), path, _use_new_zipfile_serialization=False)


def safetensors(path: Path, value: float) -> None:
    arrays = [array_of(name, "unknown", tensor) for name, tensor in weights(value).items()]
    path.write_bytes(b"".join(safetensors_plan(arrays, {}, {}).chunks()))


def shards(path: Path, value: float) -> None:
    names = {}
    for name, tensor in weights(value).items():
        names[name] = f"{path.stem}-{len(names)}.safetensors"
        content = safetensors_plan([array_of(name, "unknown", tensor)], {}, {})
        (path.parent / names[name]).write_bytes(b"".join(content.chunks()))
    path.write_text(json.dumps({"metadata": {}, "weight_map": names}))


def milepost_ckpt(path: Path, value: float) -> None:
    save_checkpoint(weights(value), path.with_suffix(".ckpt")).replace(path)


KINDS = [milepost_ckpt, safetensors, shards, torch_zip, torch_legacy]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_kind_of_file_is_read_by_all_commands(milepost, tmp_path, kind):
    """What a file is called does not matter."""
    one, other = tmp_path / "one", tmp_path / "other"
    kind(one, 1.0)
    kind(other, 2.0)
    entries = {each["name"]: each["shape"] for each in milepost("inspect", one, "--json").json["entries"]}
    assert entries == {"fc.weight": [2, 3], "fc.bias": [2]}
    assert "fc" in milepost("inspect", one).out
    assert milepost("show", one, "fc.weight", "--json").json["statistics"]["mean"] == 1.0
    assert milepost("verify", one, other).code == 0
    (found,) = milepost("diff", one, other, "--json").json["differences"]
    assert (found["name"], found["relative_l2"]) == ("fc.weight", 1.0)
    assert milepost("average", one, other, "-o", tmp_path / "soup.ckpt").code == 0
    assert milepost("show", tmp_path / "soup.ckpt", "fc.weight", "--json").json["statistics"]["mean"] == 1.5


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_a_file_of_a_kind_that_was_cut_short_is_one_line(milepost, tmp_path, kind):
    """For all commands, and damage for `verify`."""
    one = tmp_path / "one"
    kind(one, 1.0)
    if kind is shards:
        one = tmp_path / "one-0.safetensors"
    one.write_bytes(one.read_bytes()[:-10])
    for arguments in (["inspect", one], ["show", one, "fc.weight"], ["diff", one, one]):
        done = milepost(*arguments)
        assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert milepost("verify", one).code == 1


def test_kinds_are_compared_with_each_other(milepost, tmp_path):
    """A converted file is equal to its source."""
    paths = [tmp_path / kind.__name__ for kind in KINDS]
    for kind, path in zip(KINDS, paths, strict=True):
        kind(path, 1.0)
    assert [milepost("diff", paths[0], path).code for path in paths] == [0] * len(paths)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.ckpt")), ids=lambda path: path.name)
def test_what_mindspore_writes_is_read(milepost, path, tmp_path):
    """With the key, where it is encrypted."""
    (tmp_path / "key").write_bytes(KEY)
    key = ["--dec-key-file", tmp_path / "key"]
    facts = milepost("inspect", path, *key, "--json").json
    assert facts["container"].startswith("mindspore ckpt")
    assert milepost("verify", path, *key).code == 0
    for entry in facts["entries"][:20]:
        assert milepost("show", path, entry["name"], *key, "--json").code == 0
    assert milepost("diff", path, path, *key).code == 0


def test_a_key_is_read_from_a_file_or_the_environment(milepost, tmp_path, monkeypatch):
    """A key in the list of processes would be seen by others. A line's end is no part of it."""
    path = GOLDEN / "encrypted.ckpt"
    (tmp_path / "key").write_bytes(KEY + b"\n")
    monkeypatch.setenv("MILEPOST_DEC_KEY_FILE", str(tmp_path / "key"))
    assert milepost("inspect", path).code == 0


@pytest.mark.parametrize("command", ["inspect", "verify"])
def test_without_the_key_it_is_said_how_to_give_it(milepost, command):
    """It is neither damage nor shown."""
    done = milepost(command, GOLDEN / "encrypted.ckpt")
    assert done.code == 2
    assert "--dec-key-file FILE --dec-mode AES-GCM" in done.out + done.err


@pytest.mark.parametrize("key", [b"fedcba9876543210", b"too short", b""])
def test_another_key_is_an_error_that_does_not_show_it(milepost, tmp_path, key):
    """One line."""
    (tmp_path / "key").write_bytes(key)
    done = milepost("inspect", GOLDEN / "encrypted.ckpt", "--dec-key-file", tmp_path / "key")
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert not key or key.decode() not in done.err


def test_a_folder_of_another_library_raises_no_false_alarm(milepost, tmp_path):
    """A file of torch.save beside the weights can be anything."""
    torch_zip(tmp_path / "model.pt", 1.0)
    torch.save({"step": 3}, tmp_path / "scheduler.pt")
    done = milepost("verify", tmp_path, "--json")
    assert (done.code, [each["verdict"] for each in done.json["files"]]) == (0, ["sound", "other"])
    assert milepost("verify", tmp_path / "scheduler.pt").code == 1


def test_an_encrypted_run_is_listed_and_pruned_with_its_key(milepost, tmp_path):
    """Without it the files are there, but what is in them, and whose they are, is not known: nothing goes."""
    (tmp_path / "key").write_bytes(KEY)
    config = CheckpointConfig(save_checkpoint_steps=1, keep_checkpoint_max=0, enc_key=KEY)
    with CheckpointManager(tmp_path, torch.nn.Linear(2, 1), config=config) as checkpoints:
        progress = checkpoints.start()
        for _ in progress.epochs(1):
            for _ in progress.steps(range(3)):
                checkpoints.step()
    key = ["--dec-key-file", tmp_path / "key"]
    (run,) = milepost("ls", tmp_path, "--json").json["runs"]
    assert (run["checkpoints"], len(run["unreadable"])) == ([], 3)
    (run,) = milepost("ls", tmp_path, "--json", *key).json["runs"]
    assert [each["global_step"] for each in run["checkpoints"]] == [1, 2, 3]
    milepost("prune", tmp_path, "--keep-last", 1, "--yes")
    assert len(list(tmp_path.glob("*.ckpt"))) == 3
    assert milepost("verify", tmp_path, *key).code == 0
    milepost("prune", tmp_path, "--keep-last", 1, "--yes", *key)
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["CKP-1_3.ckpt"]
