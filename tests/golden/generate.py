"""Writes the golden files: small checkpoints saved by real MindSpore 2.10.0, and what each of them holds.

Run it with the Python of an environment that has `mindspore==2.10.0` (CPU), from anywhere:

    .venv-mindspore/bin/python tests/golden/generate.py

The expectations in `files/expected.json` come from the values in memory, not from the files.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path

import mindspore as ms
import numpy as np
from mindspore import mint, nn
from mindspore.train import serialization

FILES = Path(__file__).parent / "files"
DTYPES = [
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "float16",
    "float32",
    "float64",
    "bfloat16",
    "bool",
    "complex64",
    "complex128",
]
EXPECTED: dict[str, list[list[object]]] = {}


def content(tensor: ms.Tensor) -> bytes:
    """The tensor's bytes in C order, little-endian."""
    if tensor.dtype == ms.bfloat16:  # NumPy has no such type; its values are float32 without the lower half
        return (tensor.float().asnumpy().view(np.uint32) >> 16).astype("<u2").tobytes()
    return tensor.asnumpy().tobytes()


def row(name: str, value: ms.Tensor | str) -> list[object]:
    """What a reader must find: name, canonical dtype, shape, content in hex (of a text: the text)."""
    if isinstance(value, str):
        return [name, "str", [], value]
    return [name, str(value.dtype).lower(), list(value.shape), content(value).hex()]


def save(file_name: str, tensors: dict[str, ms.Tensor], appended: dict[str, object] | None = None, **options: object):
    """Save by MindSpore, and note what was saved."""
    path = FILES / file_name
    path.unlink(missing_ok=True)
    rows = [{"name": name, "data": tensor} for name, tensor in tensors.items()]
    ms.save_checkpoint(rows, str(path), append_dict=appended, **options)
    while options.get("async_save") and ms.async_ckpt_thread_status():
        time.sleep(0.01)
    path.chmod(0o644)
    values = dict(tensors)
    for name, value in (appended or {}).items():
        values[name] = value if isinstance(value, str) else ms.Tensor(value)
    EXPECTED[file_name] = [row(name, value) for name, value in values.items()]


def values(dtype: str, shape: tuple[int, ...]) -> ms.Tensor:
    """Numbers that every dtype can hold."""
    numbers = np.resize(np.array([0, 1, 2, 3, 100, 127]), shape)
    if dtype == "bfloat16":
        return ms.Tensor(numbers.astype(np.float32)).bfloat16()
    return ms.Tensor(numbers.astype(dtype))


def trained(optimizer: str) -> dict[str, ms.Tensor]:
    """The parameters of a small network and its optimizer, named by MindSpore, after three steps."""
    ms.set_seed(1)
    network = nn.SequentialCell(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Dense(32, 3))
    parameters = network.trainable_params()
    rule = nn.Momentum(parameters, 0.01, 0.9) if optimizer == "momentum" else nn.Adam(parameters, 0.01)
    step = nn.TrainOneStepCell(nn.WithLossCell(network, nn.MSELoss()), rule)
    step.set_train()
    numbers = np.random.default_rng(1)
    for _ in range(3):
        step(
            ms.Tensor(numbers.standard_normal((4, 1, 4, 4), dtype=np.float32)),
            ms.Tensor(numbers.standard_normal((4, 3), dtype=np.float32)),
        )
    return {parameter.name: parameter.value() for parameter in step.get_parameters()}


class Cells(nn.Cell):
    """One cell of each kind whose parameters Milepost knows by name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1d = nn.Conv1d(2, 3, 5, has_bias=True)
        self.conv1d_back = nn.Conv1dTranspose(2, 3, 5, has_bias=True)
        self.conv2d = nn.Conv2d(2, 4, 3, group=2, has_bias=True)
        self.conv2d_back = nn.Conv2dTranspose(2, 3, 3)
        self.conv3d = nn.Conv3d(1, 2, 2)
        self.norms = nn.SequentialCell(nn.BatchNorm1d(3), nn.BatchNorm2d(3), nn.BatchNorm3d(3), nn.SyncBatchNorm(3))
        self.layer_norm = nn.LayerNorm((4,))
        self.group_norm = nn.GroupNorm(2, 4)
        self.embedding = nn.Embedding(5, 3)
        self.prelu = nn.PReLU(3)
        self.dense = nn.Dense(2, 3)
        self.bilinear = nn.BiDense(2, 3, 4)
        self.lstm = nn.LSTM(3, 2, 2, bidirectional=True)
        self.gru = nn.GRU(3, 2)
        self.rnn = nn.RNN(3, 2)
        self.lstm_cell = nn.LSTMCell(3, 2)
        self.gru_cell = nn.GRUCell(3, 2)
        self.rnn_cell = nn.RNNCell(3, 2)
        self.attention = nn.MultiheadAttention(4, 2)
        self.attention_of_others = nn.MultiheadAttention(4, 2, kdim=3, vdim=2)
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 6), 1)
        self.decoder = nn.TransformerDecoderLayer(4, 2, 6)
        self.mint = nn.SequentialCell(
            mint.nn.Linear(2, 3), mint.nn.BatchNorm2d(3), mint.nn.LayerNorm((4,)), mint.nn.Embedding(5, 3)
        )


def numbered(cell: nn.Cell) -> dict[str, ms.Tensor]:
    """The cell's parameters, each with numbers of its own."""
    shapes = {parameter.name: parameter for parameter in cell.get_parameters()}
    return {
        name: ms.Tensor((np.arange(parameter.size) + 1000 * place).reshape(parameter.shape), parameter.dtype)
        for place, (name, parameter) in enumerate(shapes.items())
    }


def computed() -> dict[str, ms.Tensor]:
    """Of cells that compute in more than one way: random parameters, an input `<cell>.x` and the output `<cell>.y`."""
    numbers = np.random.default_rng(1)

    def draw(*shape: int) -> ms.Tensor:
        return ms.Tensor(numbers.standard_normal(shape, dtype=np.float32))

    cells = {
        "conv1d": (nn.Conv1d(2, 3, 5, pad_mode="valid", has_bias=True), (1, 2, 7)),
        "conv1d_back": (nn.Conv1dTranspose(2, 3, 5, pad_mode="valid", has_bias=True), (1, 2, 4)),
        "batch_norm": (nn.BatchNorm1d(3), (4, 3)),
        "layer_norm": (nn.LayerNorm((4,)), (2, 4)),
        "group_norm": (nn.GroupNorm(2, 4), (1, 4, 2, 2)),
        "prelu": (nn.PReLU(3), (2, 3, 2)),
        "lstm": (nn.LSTM(3, 2, 2, batch_first=True, bidirectional=True), (2, 4, 3)),
        "gru": (nn.GRU(3, 2, 2, batch_first=True, bidirectional=True), (2, 4, 3)),
        "rnn": (nn.RNN(3, 2, batch_first=True), (2, 4, 3)),
        "gru_cell": (nn.GRUCell(3, 2), (2, 3)),
        "attention": (nn.MultiheadAttention(4, 2, batch_first=True), (2, 3, 4)),
        "encoder": (nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, batch_first=True), (2, 3, 4)),
    }
    found = {}
    for name, (cell, shape) in cells.items():
        outer = nn.CellList([cell])  # inside another one, as its parameters are called there
        for parameter in outer.get_parameters():
            values = draw(*parameter.shape)
            parameter.set_data(values.abs() if parameter.name.endswith("variance") else values)
            found[parameter.name.replace("0.", f"{name}.", 1)] = parameter.value()
        x = draw(*shape)
        cell.set_train(False)
        state = (x, draw(2, 2)) if name == "gru_cell" else (x,) * (3 if name == "attention" else 1)
        y = cell(*state)
        found |= {f"{name}.x": x, f"{name}.y": y[0] if isinstance(y, tuple) else y}
        if name == "gru_cell":
            found[f"{name}.h"] = state[1]
    return found


def main() -> None:
    """Write all files."""
    FILES.mkdir(exist_ok=True)
    every_dtype = {dtype: values(dtype, (2, 3)) for dtype in DTYPES}
    save("dtypes.ckpt", every_dtype)
    save("crc.ckpt", every_dtype, crc_check=True)
    save("scalars.ckpt", {dtype: values(dtype, ()) for dtype in DTYPES} | {"one": values("float32", (1,))})
    # Saving in the foreground drops arrays without elements without a word; in the background it does not.
    shapes = ((0,), (0, 3), (2, 0, 3), (2, 3))
    save("zero_size.ckpt", {f"shape {shape}": values("float32", shape) for shape in shapes}, async_save=True)
    save(
        "appended.ckpt",
        {"weight": values("float32", (2,))},
        {"epoch_num": 3, "loss": 0.5, "done": True, "no": False, "note": "gelernt: 你好 😀", "empty": ""},
    )
    serialization.SLICE_SIZE, slice_kib = 1, serialization.SLICE_SIZE
    save("slices.ckpt", {"big": values("float32", (25, 25)), "small": values("int8", (3,))})
    serialization.SLICE_SIZE = slice_kib
    save("momentum.ckpt", trained("momentum"))
    save("adam.ckpt", trained("adam"))
    save("cells.ckpt", numbered(Cells()))
    save("computed.ckpt", computed())
    save("bare.ckpt", numbered(nn.BatchNorm2d(3)))
    save("encrypted.ckpt", {"weight": values("float32", (2,))}, enc_key=b"0123456789abcdef", enc_mode="AES-GCM")
    (FILES / "expected.json").write_text(json.dumps(EXPECTED, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:  # MindSpore leaves files where it runs
        os.chdir(scratch)
        main()
