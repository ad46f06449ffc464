"""What goes around a checkpoint on request: encryption, MindSpore's CRC-32, safetensors."""

from __future__ import annotations

import subprocess
import sys

import pytest
import safetensors.torch
import torch
from torch import nn

from milepost import load_checkpoint, save_checkpoint
from milepost.errors import DamagedCheckpointError, DecryptionError, MilepostError, SettingError
from milepost.format import encryption
from milepost.interop.files import open_file

KEY = b"0123456789abcdef"
ENCRYPTED = [{"enc_key": KEY, "enc_mode": mode} for mode in encryption.MODES]


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm1d(3)


@pytest.mark.parametrize(
    ("settings", "container"),
    [({"crc_check": True}, "milepost ckpt"), ({"format": "safetensors"}, "safetensors"),
     ({"format": "safetensors", "crc_check": True}, "safetensors"),
     *((settings, f"milepost ckpt, {settings['enc_mode']}") for settings in ENCRYPTED)],
)  # fmt: skip
def test_whatever_is_around_it_a_checkpoint_is_the_same(settings, container, tmp_path):
    """Parameters, tied ones, buffers, appended values, metadata, their checksums."""
    net = Tied()
    path = save_checkpoint(net, tmp_path / "net", {"note": "warm", "epoch_num": 3}, **settings)
    assert path.name == f"net.{settings.get('format', 'ckpt')}"
    opening = {name.replace("enc", "dec"): value for name, value in settings.items() if name.startswith("enc")}
    with open_file(path, **opening) as file:
        assert file.container == container
        assert all(entry.checksum is not None for entry in file.index.entries.values())
        file.verify()
    parameters = load_checkpoint(path, **opening)
    assert (parameters["note"], parameters["epoch_num"], parameters.metadata["writer"][:8]) == ("warm", 3, "milepost")
    assert [parameters.kind(name) for name in ("first.weight", "norm.running_mean", "note")] == [
        "parameter",
        "buffer",
        "appended",
    ]
    twin = Tied()
    load_checkpoint(path, net=twin, filter_prefix=["note", "epoch_num"], strict_load=True, **opening)
    assert all(torch.equal(value, net.state_dict()[name]) for name, value in twin.state_dict().items())
    assert parameters["second.weight"] is parameters["first.weight"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"format": "pt"}, "format.*'pt'"),
        ({"crc_check": 1}, "crc_check"),
        ({"enc_key": KEY, "crc_check": True}, "enc_key.*crc_check"),
        ({"enc_key": KEY, "format": "safetensors"}, "enc_key.*safetensors"),
        ({"enc_key": b"1"}, "enc_key.*1 bytes"),
        ({"enc_key": KEY, "enc_mode": "ROT13"}, "enc_mode"),
    ],
)
def test_settings_that_cannot_be_meant_write_nothing(settings, says, tmp_path):
    """And cost no file that is there."""
    (tmp_path / "net.ckpt").write_text("precious")
    with pytest.raises(SettingError, match=says):
        save_checkpoint({"w": torch.ones(1)}, tmp_path / "net.ckpt", **settings)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize("settings", ENCRYPTED, ids=lambda settings: settings["enc_mode"])
def test_no_flipped_bit_of_an_encrypted_file_goes_unseen(settings, tmp_path):
    """Without a tag, Milepost's own checksums inside tell."""
    path = save_checkpoint({"w": torch.arange(8.0), "v": torch.ones(2)}, tmp_path / "x.ckpt", **settings)
    sound = path.read_bytes()
    unused = range(40, 44) if settings["enc_mode"] == "AES-GCM" else range(0)  # AES-GCM uses 12 bytes of the vector
    for position in range(0, 8 * len(sound), 5):
        flipped = bytearray(sound)
        flipped[position // 8] ^= 1 << position % 8
        path.write_bytes(flipped)
        if position // 8 in unused:
            continue
        with pytest.raises(MilepostError), open_file(path, dec_key=KEY, dec_mode=settings["enc_mode"]) as file:
            file.verify()


@pytest.mark.parametrize("settings", ENCRYPTED, ids=lambda settings: settings["enc_mode"])
def test_wrong_keys_are_told(settings, tmp_path):
    """By the same error in every mode, whatever the wrong key makes of the file."""
    path = save_checkpoint({"w": torch.arange(8.0)}, tmp_path / "x.ckpt", **settings)
    for number in range(600):  # one in 256 keys fills up the last block as it should be
        with pytest.raises(DecryptionError, match="does not open"):
            open_file(path, dec_key=number.to_bytes(16, "big"), dec_mode=settings["enc_mode"])


def test_a_changed_content_in_safetensors_is_found(tmp_path):
    """Which safetensors itself could not."""
    path = save_checkpoint({"w": torch.arange(8.0)}, tmp_path / "x", format="safetensors")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    safetensors.torch.load_file(path)
    with pytest.raises(DamagedCheckpointError, match="'w'"):
        load_checkpoint(path)["w"]


MEMORY = """
import resource, sys, torch
from milepost import load_checkpoint, save_checkpoint
key = b"0123456789abcdef"
def rss(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
arrays = {f"w{number}": torch.ones(1 << 20) for number in range(64)}  # 256 MiB
save_checkpoint({"w": arrays["w0"]}, sys.argv[1] + "/small.ckpt", enc_key=key)
load_checkpoint(sys.argv[1] + "/small.ckpt", dec_key=key).verify()
before = rss()
path = save_checkpoint(arrays, sys.argv[1] + "/large.ckpt", enc_key=key)
load_checkpoint(path, dec_key=key).verify()
print(rss() - before)
"""


@pytest.mark.slow
def test_memory_does_not_grow_with_an_encrypted_model(tmp_path):
    """It is written and verified block by block."""
    done = subprocess.run([sys.executable, "-c", MEMORY, tmp_path], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64 << 10  # KiB
