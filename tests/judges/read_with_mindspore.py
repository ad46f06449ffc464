"""Loads the checkpoints named as arguments with real MindSpore, and prints what it found as JSON.

An argument is a path, or a JSON object of what its `load_checkpoint` takes, with `dec_key` in hexadecimal.

For each file, in order: `{"entries": [...]}`, each entry with name, dtype, shape and the SHA-256 of its bytes (a text:
the text itself), or `{"error": "..."}`. Runs in MindSpore's own environment; knows nothing of Milepost.
"""

from __future__ import annotations

import hashlib
import json
import sys

import mindspore


def found(value: object) -> dict[str, object]:
    """An entry without its name."""
    if isinstance(value, str):
        return {"dtype": "str", "shape": [], "text": value}
    return {
        "dtype": str(value.dtype).lower(),
        "shape": list(value.shape),
        "sha256": hashlib.sha256(value.get_bytes()).hexdigest(),
    }


def load(argument: str) -> dict[str, object]:
    """What MindSpore finds in one file."""
    settings = json.loads(argument) if argument.startswith("{") else {"ckpt_file_name": argument}
    if "dec_key" in settings:
        settings["dec_key"] = bytes.fromhex(settings["dec_key"])
    try:
        loaded = mindspore.load_checkpoint(**settings)
    except Exception as error:  # whatever it is, it is the answer
        return {"error": f"{type(error).__name__}: {error}"}
    return {"entries": [{"name": name, **found(value)} for name, value in loaded.items()]}


if __name__ == "__main__":
    answers = [load(argument) for argument in sys.argv[1:]]
    print("\n" + json.dumps(answers))
