"""`export`: a module with its weights as a file that other tools run. How it becomes a graph is not known here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from milepost.errors import GraphError, SettingError
from milepost.graphs.guard import untouched
from milepost.graphs.meta import check, describe
from milepost.graphs.trace import as_inputs, need_onnx, trace
from milepost.storage.local import LocalStorage

KIND_WITH_WEIGHTS = "graph with weights"

PROTOBUF_LIMIT = 2**31 - 1
"""The most bytes of a protobuf message."""

TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 1e-2, torch.float32: 1e-4, torch.float64: 1e-4}
"""How far an exported model's result may be from the module's, relative to the largest value of that result; for dtypes
not listed, it must be equal. Two runtimes add in different orders: on float32, 1e-6
is usual, and 1e-5 for very deep networks."""


def export(
    net: nn.Module,
    *inputs: Tensor | np.ndarray,
    file_name: str | os.PathLike[str],
    file_format: str = "GEIR",
) -> Path:
    """Write `net` with its weights to a file that other tools run, checked before it is written.

    The module is exported in eval mode, with a free batch dimension where it allows one, and is left exactly as it was.
    The file is run once by onnxruntime on `inputs` and must give what the module gives, within `TOLERANCES`. It is
    whole or not there at all.

    Args:
        net: The module, on any device.
        inputs: Example tensors or arrays, as for a call of `net`.
        file_name: The file. A missing suffix is added; another one than the format's is kept, with a warning.
        file_format: This version writes ``ONNX`` only.

    Returns:
        The path of the file.

    Raises:
        SettingError: This version does not write the format.
        GraphError: The module cannot be expressed in the format, or the file would not compute the same.
        MissingExtraError: onnx, onnxscript or onnxruntime is not installed.
        SaveError: The file did not reach its place.
    """
    if file_format not in FORMATS:
        raise SettingError(
            "file_format",
            found=repr(file_format),
            expected="one of the formats that this version writes: " + ", ".join(FORMATS),
            remedy="This format is not available in this version; export to ONNX, which most other tools convert.",
        )
    chosen = FORMATS[file_format]
    path = _path(Path(file_name), file_format, chosen.suffix)
    content = chosen.encode(net, as_inputs(net, inputs))
    with LocalStorage(path.parent).create(path.name, len(content)) as file:
        file.write(content)
        file.commit()
    return path


def _path(path: Path, file_format: str, suffix: str) -> Path:
    if not path.suffix:
        return path.with_name(path.name + suffix)
    if path.suffix != suffix:
        message = f"{path.name}: tools know {file_format} files by the suffix {suffix}; the name is kept as it is"
        warnings.warn(message, UserWarning, stacklevel=3)
    return path


def _onnx(net: nn.Module, inputs: tuple[Tensor, ...]) -> bytes:
    need_onnx("exporting to ONNX", "onnx", "onnxscript", "onnxruntime")
    _check_size(net)
    with untouched(net):
        with torch.no_grad():
            results = net(*(tensor.clone() for tensor in inputs))  # forward may work in place
        expected = [leaf for leaf in pytree.tree_leaves(results) if isinstance(leaf, Tensor)]
        traced = trace(net, inputs)
        traced.insert_weights()
        proto = traced.proto()
    describe(proto, net, KIND_WITH_WEIGHTS, {}, hidden_hooks=traced.hidden_hooks)
    check(proto, net)
    names = [value.name for value in proto.graph.input]
    content: bytes = proto.SerializeToString(deterministic=True)
    del proto  # it holds the weights, and so does onnxruntime below
    _check_results(net, _run(net, content, names, inputs), expected, traced.hidden_hooks)
    return content


@dataclass(frozen=True)
class _Format:
    suffix: str
    encode: Callable[[nn.Module, tuple[Tensor, ...]], bytes]


FORMATS = {"ONNX": _Format(".onnx", _onnx)}
"""The formats that this version writes."""


def _check_size(net: nn.Module) -> None:
    nbytes = sum(tensor.nbytes for tensor in (*net.parameters(), *net.buffers()))
    if nbytes > PROTOBUF_LIMIT:
        raise GraphError(
            type(net).__name__,
            found=f"{nbytes:,} bytes of weights",
            expected=f"at most {PROTOBUF_LIMIT:,}, which is what one ONNX file holds",
            remedy="Export a smaller part of the network, or use the checkpoint and the -graph.meta file.",
        )


def _run(net: nn.Module, content: bytes, names: list[str], inputs: tuple[Tensor, ...]) -> list[np.ndarray]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only; it warns about initializers that it folds
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        feed = {name: tensor.numpy(force=True) for name, tensor in zip(names, inputs, strict=True)}
        results: list[np.ndarray] = session.run(None, feed)
    except Exception as error:  # onnxruntime's own exceptions share no other base
        raise GraphError(
            type(net).__name__,
            found=f"a graph that onnxruntime does not run: {str(error).partition(chr(10))[0]}",
            expected="a graph that computes what the module does",
            remedy="Use dtypes and operators that onnxruntime has; nothing was written.",
        ) from error
    return results


def _check_results(net: nn.Module, actual: list[np.ndarray], expected: list[Tensor], hidden_hooks: list[str]) -> None:
    for position, (found, wanted) in enumerate(zip(actual, expected, strict=True)):
        tolerance = TOLERANCES.get(wanted.dtype, 0.0)
        reference = wanted.numpy(force=True)
        scale = float(np.abs(reference[np.isfinite(reference)]).max(initial=0)) if tolerance else 0.0
        if not np.allclose(found, reference, rtol=0, atol=tolerance * scale, equal_nan=True):
            hooks = f" Hooks are not exported, and {', '.join(hidden_hooks)} has some." if hidden_hooks else ""
            raise GraphError(
                type(net).__name__,
                found=f"that result {position} of the exported graph is not the module's",
                expected=f"a difference of at most {tolerance:g} of the largest value",
                remedy="Nothing was written; report the network, or try another version of torch." + hooks,
            )
