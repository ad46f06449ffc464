"""Saves one set of tensors in every container that real MindSpore has, into the current folder; says in
`expected.json` how to open each file and what is in it. Runs in MindSpore's own environment; knows nothing of Milepost.
"""

from __future__ import annotations

import hashlib
import json

import mindspore as ms
import numpy as np
from mindspore.train import serialization

KEY = b"0123456789abcdef"
NUMBERS = np.random.default_rng(1)


def main() -> None:
    """Write all files."""
    serialization.ENCRYPT_BLOCK_SIZE = 16  # KiB, so that there are several blocks
    arrays = {
        "weight": NUMBERS.standard_normal((100, 100)).astype(np.float32),
        "count": np.array(7, np.int64),
        "flag": np.array([True, False]),
        "bytes": np.arange(200, dtype=np.uint8),
    }
    tensors = [{"name": name, "data": ms.Tensor(array)} for name, array in arrays.items()]
    entries = {
        name: [str(array.dtype), list(array.shape), hashlib.sha256(array.tobytes()).hexdigest()]
        for name, array in arrays.items()
    }
    expected = {}
    for mode, lengths in {"AES-GCM": (16, 24, 32), "AES-CBC": (16, 32), "SM4-CBC": (16,)}.items():
        for length in lengths:
            key = (KEY * 2)[:length]
            name = f"{mode}-{length}.ckpt"
            ms.save_checkpoint(tensors, name, enc_key=key, enc_mode=mode)
            expected[name] = [{"dec_key": key.hex(), "dec_mode": mode}, entries]
    ms.save_checkpoint(tensors, "crc.ckpt", crc_check=True)
    ms.save_checkpoint(tensors, "plain.safetensors", format="safetensors")
    ms.save_checkpoint(tensors, "crc.safetensors", format="safetensors", crc_check=True)
    expected |= {name: [{}, entries] for name in ("crc.ckpt", "plain.safetensors", "crc.safetensors")}
    with open("expected.json", "w") as file:
        json.dump(expected, file)


if __name__ == "__main__":
    main()
