"""`milepost convert`."""

from __future__ import annotations

import pytest
import torch

from milepost import save_checkpoint


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors", ".pt", ".pth", ".bin"])
def test_a_checkpoint_is_equal_when_it_comes_back(milepost, runs, tmp_path, suffix):
    """Entries and metadata, by way of every kind of file."""
    source, there, back = runs / "net-2_2.ckpt", tmp_path / f"there{suffix}", tmp_path / "back.ckpt"
    done = milepost("convert", source, there, "--json")
    assert (done.code, done.json["target"]) == (0, str(there))
    assert milepost("convert", there, back).code == 0
    assert milepost("diff", source, there).code == milepost("diff", source, back).code == 0
    facts = [milepost("inspect", path, "--json").json for path in (source, back)]
    assert facts[0]["metadata"] == facts[1]["metadata"]
    assert facts[0]["entries"] == facts[1]["entries"]
    assert done.json["entries"] == len(facts[0]["entries"])


@pytest.mark.parametrize(("size", "shards"), [("1kB", 2), ("0.5 kB", 4), ("100000", 0), ("1G", 0)])
def test_shards_are_of_the_size_that_is_asked_for(milepost, tmp_path, size, shards):
    """Named as people name sizes; what was written is said, and sound."""
    source = save_checkpoint({f"w{place}": torch.ones(100) for place in range(4)}, tmp_path / "a.ckpt")
    done = milepost("convert", source, tmp_path / "out.safetensors", "--max-shard-size", size, "--json")
    assert done.code == 0
    assert len(list(tmp_path.glob("out-*.safetensors"))) == shards
    assert milepost("verify", done.json["target"]).code == 0
    assert milepost("diff", source, done.json["target"]).code == 0


def test_what_is_encrypted_needs_its_key(milepost, runs, tmp_path):
    """To be looked at, and to be converted back; the key is in a file, and nowhere else."""
    (tmp_path / "key").write_bytes(b"0123456789abcdef")
    source, secret = runs / "net-2_2.ckpt", tmp_path / "secret.ckpt"
    done = milepost("convert", source, secret, "--enc-key-file", tmp_path / "key")
    assert done.code == 0
    assert "0123456789abcdef" not in done.out
    assert milepost("inspect", secret).code == milepost("convert", secret, tmp_path / "a.ckpt").code == 2
    key = ["--dec-key-file", tmp_path / "key"]
    assert milepost("convert", secret, tmp_path / "back.ckpt", *key).code == 0
    assert milepost("diff", source, secret, *key).code == milepost("diff", source, tmp_path / "back.ckpt").code == 0


@pytest.mark.parametrize(
    ("target", "options"),
    [
        ("out.zip", []),
        ("out.safetensors", ["--max-shard-size", "much"]),
        ("out.safetensors", ["--max-shard-size", "0"]),
        ("out.ckpt", ["--max-shard-size", "1GB"]),
        ("out.pt", ["--crc-check"]),
        ("out.ckpt", ["--enc-key-file", "missing"]),
        ("missing/../out/..", []),
    ],
)
def test_settings_that_cannot_be_meant_are_one_line(milepost, runs, tmp_path, monkeypatch, target, options):
    """And nothing is written."""
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    done = milepost("convert", runs / "net-1_2.ckpt", target, *options)
    assert (done.code, done.out, len(done.err.splitlines())) == (2, "", 1)
    assert set(tmp_path.iterdir()) == before


def test_damage_costs_no_file(milepost, damaged, tmp_path):
    """What had the target's name is as it was."""
    for target in (tmp_path / "out.safetensors", tmp_path / "out.pt"):
        target.write_bytes(b"precious")
        done = milepost("convert", damaged, target)
        assert (done.code, target.read_bytes()) == (2, b"precious")
        assert "head.weight" in done.err
