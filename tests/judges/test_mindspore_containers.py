"""Real MindSpore 2.10.0 and the containers, both ways: encrypted files, CRC-32, safetensors."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path

import pytest
import torch

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint, save_checkpoint
from milepost.errors import DecryptionError
from milepost.format import encryption

pytestmark = pytest.mark.slow

KEY = b"0123456789abcdef"
WRITER = Path(__file__).with_name("write_with_mindspore.py")
TENSORS = {
    "weight": torch.arange(40_000, dtype=torch.float32).reshape(200, 200),
    "half": torch.tensor([1.5, float("nan")], dtype=torch.float16),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "flag": torch.tensor([True, False]),
    "count": torch.tensor(7),
    "bytes": torch.arange(200, dtype=torch.uint8),
}
ENCRYPTED = [(mode, key) for mode, kind in encryption.MODES.items() for key in [(KEY * 2)[:n] for n in kind.key_nbytes]]


def safe(crc) -> dict[str, torch.Tensor]:
    """MindSpore cannot calculate its CRC-32 of a bfloat16, whoever wrote it."""
    return {name: tensor for name, tensor in TENSORS.items() if not crc or name != "brain"}


def rows(tensors) -> list[dict[str, object]]:
    return [
        {
            "name": name,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
            "sha256": hashlib.sha256(tensor.contiguous().reshape(-1).view(torch.uint8).numpy()).hexdigest(),
        }
        for name, tensor in tensors.items()
    ]


@pytest.fixture(scope="module")
def judged(tmp_path_factory, read_with_mindspore):
    """What MindSpore makes of our files: one call for all."""
    folder = tmp_path_factory.mktemp("ours")
    files = {}
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(encryption, "CHUNK_NBYTES", 1000)  # many blocks
        for mode, key in ENCRYPTED:
            path = save_checkpoint(TENSORS, folder / f"{mode}-{len(key)}", {"note": "warm"}, enc_key=key, enc_mode=mode)
            files[mode, key] = {"ckpt_file_name": str(path), "dec_key": key.hex(), "dec_mode": mode}
    path = save_checkpoint(TENSORS, folder / "crc", {"note": "warm"}, crc_check=True)
    files["crc"] = {"ckpt_file_name": str(path), "crc_check": True}
    broken = folder / "broken.ckpt"
    content = bytearray(path.read_bytes())
    content[content.index(TENSORS["half"].numpy().tobytes())] ^= 1
    broken.write_bytes(content)
    files["broken crc"] = {"ckpt_file_name": str(broken), "crc_check": True}
    config = CheckpointConfig(enc_key=KEY, append_info=["epoch_num", "step_num", {"note": "warm"}])
    net = torch.nn.Linear(2, 1)
    with CheckpointManager(folder / "run", net, config=config) as checkpoints:
        for _ in checkpoints.resume().epochs(1):
            for _ in checkpoints.progress.steps([1, 2]):
                checkpoints.step()
    files["run"] = {"ckpt_file_name": str(folder / "run" / "CKP-1_2.ckpt"), "dec_key": KEY.hex()}
    for crc in (False, True):
        path = save_checkpoint(safe(crc), folder / f"safe{crc}", format="safetensors", crc_check=crc)
        files["safetensors", crc] = {"ckpt_file_name": str(path), "format": "safetensors", "crc_check": crc}
    return dict(zip(files, read_with_mindspore(files.values()), strict=True))


@pytest.mark.parametrize(("mode", "key"), ENCRYPTED)
def test_mindspore_decrypts_what_milepost_encrypts(mode, key, judged):
    """In every mode, with a key of every length, in many blocks."""
    note = {"name": "note", "dtype": "str", "shape": [], "text": "warm"}
    assert judged[mode, key] == {"entries": [*rows(TENSORS), note]}


def test_mindspore_checks_the_crc_that_milepost_writes(judged):
    """It accepts the right one, and finds a changed bit."""
    assert judged["crc"]["entries"][:-1] == rows(TENSORS)
    assert "error" in judged["broken crc"]


def test_mindspore_reads_the_checkpoints_of_an_encrypted_run(judged):
    """And finds in them what `append_info` put there."""
    found = {entry["name"]: entry for entry in judged["run"]["entries"]}
    assert {"weight", "bias", "epoch_num", "step_num", "note"} <= set(found)
    assert (found["note"]["text"], found["step_num"]["sha256"]) == (
        "warm",
        rows({"step_num": torch.tensor(2)})[0]["sha256"],
    )


@pytest.mark.parametrize("crc", [False, True])
def test_mindspore_reads_the_safetensors_that_milepost_writes(crc, judged):
    """In the order of the names, as it does; with its CRC-32 checked."""
    assert judged["safetensors", crc] == {"entries": rows(dict(sorted(safe(crc).items())))}


@pytest.fixture(scope="module")
def theirs(mindspore_python, tmp_path_factory) -> Path:
    """A folder of files that MindSpore wrote."""
    folder = tmp_path_factory.mktemp("theirs")
    done = subprocess.run(
        [mindspore_python, WRITER], cwd=folder, check=False, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_what_mindspore_writes_is_read(theirs):
    """Encrypted in every mode, in several blocks; with CRC-32; safetensors with and without."""
    expected = json.loads((theirs / "expected.json").read_text())
    assert len(expected) == 9
    for name, (settings, entries) in expected.items():
        if "dec_key" in settings:
            settings["dec_key"] = bytes.fromhex(settings["dec_key"])
        parameters = load_checkpoint(theirs / name, **settings)
        parameters.verify()
        found = {
            key: [str(value.dtype).removeprefix("torch."), list(value.shape),
                  hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy()).hexdigest()]
            for key, value in parameters.items()
        }  # fmt: skip
        assert found == entries, name


def test_a_wrong_key_and_a_flipped_bit_are_told(theirs, tmp_path):
    """Of a file with a tag, wherever the bit is."""
    content = bytearray((theirs / "AES-GCM-16.ckpt").read_bytes())
    with pytest.raises(DecryptionError, match="does not open"):
        load_checkpoint(theirs / "AES-GCM-16.ckpt", dec_key=KEY[::-1])
    for position in range(60, len(content), len(content) // 50):
        flipped = content.copy()
        flipped[position] ^= 1
        (tmp_path / "x.ckpt").write_bytes(flipped)
        with pytest.raises(DecryptionError, match="does not open"):
            load_checkpoint(tmp_path / "x.ckpt", dec_key=KEY).verify()
