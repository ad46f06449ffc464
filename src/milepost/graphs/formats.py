"""`export`: a module with its weights as a file that other tools run. How a format is written is not known here."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from milepost.errors import SettingError, SettingTypeError
from milepost.format import encryption
from milepost.graphs import geir_file, mindir_file, onnx_file, pt2_file
from milepost.graphs.files import Order, Part
from milepost.graphs.loaded import read_model
from milepost.graphs.trace import as_inputs
from milepost.origin import origin
from milepost.storage.local import LocalStorage


@dataclass(frozen=True)
class Format:
    """A format of files.

    Args:
        suffix: How its files end.
        encode: Writes a module.
        settings: What `export` takes for this format beyond what it takes for all.
    """

    suffix: str
    encode: Callable[[Order], list[Part]]
    settings: frozenset[str]


_GEIR = Format(".air", geir_file.encode, frozenset({"operators"}))

FORMATS = {
    "ONNX": Format(".onnx", onnx_file.encode, frozenset({"input_names", "output_names", "dynamic_shapes", "opset"})),
    "GEIR": _GEIR,
    "AIR": _GEIR,  # what MindSpore calls it since 0.7
    "MINDIR": Format(".mindir", mindir_file.encode, frozenset()),
    "PT2": Format(".pt2", pt2_file.encode, frozenset({"dynamic_shapes"})),
}
"""The formats that this version writes."""

_BY_SUFFIX = {".onnx": "ONNX", ".air": "GEIR", ".pb": "GEIR", ".mindir": "MINDIR", ".pt2": "PT2"}
"""What a file's suffix says of its format; the tutorial's GEIR files end in ``.pb``."""


def export(
    net: nn.Module | str | os.PathLike[str],
    *inputs: Tensor | np.ndarray | str | os.PathLike[str],
    file_name: str | os.PathLike[str],
    file_format: str | None = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    dynamic_shapes: Any = None,
    opset: int | None = None,
    operators: str | None = None,
    verify: bool = True,
    dec_key: bytes | None = None,
    dec_mode: str = encryption.DEFAULT,
) -> Path:
    """Write `net` with its weights to a file that other tools run, checked before it is written.

    The module is exported in eval mode and is left exactly as it was. What was exported is run on `inputs` and on
    random values in a batch of another size, and must give what the module gives, within
    `milepost.graphs.judge.TOLERANCES` (for float32 1e-4 of the result's largest value). The file is whole or not there
    at all.

    Instead of a module and inputs, the ``-graph.meta`` file of a run and one of its checkpoints can be given: an ONNX
    file is written without the Python class.

    Args:
        net: The module, on any device; or the path of a ``-graph.meta`` file.
        inputs: Example tensors or arrays, as for a call of `net`; or the path of a checkpoint.
        file_name: The file. A missing suffix is added; another one than the format's is kept, with a warning.
        file_format: ``ONNX``, one file up to 2 GB, with the weights in ``<file_name>.data`` beyond that; ``GEIR``,
            also called ``AIR``, for Huawei's ATC, and ``MINDIR``, for MindSpore, both with fixed shapes; or ``PT2``,
            a file of `torch.export`. By default what the suffix of `file_name` says, and where it says nothing, GEIR
            for a module, ONNX for a graph and a checkpoint.
        input_names: Names of the inputs instead of those of forward's arguments (ONNX).
        output_names: Names of the outputs (ONNX).
        dynamic_shapes: The free dimensions, as `torch.export.export` takes them; an empty one for none. By default it
            is the batch, which is the first dimension; a module that works for one size only has it fixed, with a
            warning.
        opset: The version of ONNX's operators, 18 to 25, or an older one to which the module's can be converted; 20
            by default (ONNX).
        operators: GE's operators, ``current``, the default, or ``2020`` for tools as old as MindSpore r0.6 (GEIR).
        verify: Whether to compare the results with the module's: those of onnxruntime (ONNX), of torch (PT2), or of
            Milepost's reference interpreter (GEIR, MINDIR).
        dec_key: The key of the checkpoint, where that is encrypted.
        dec_mode: How it is encrypted, as for `load_checkpoint`.

    Returns:
        The path of the file.

    Raises:
        SettingError: This version does not write the format, or the format does not take a setting.
        GraphError: The module cannot be expressed in the format, or the file would not compute the same.
        MismatchError: A checkpoint does not fit the graph.
        MissingExtraError: what the format needs is not installed: the extra ``[onnx]``, ``[geir]`` or ``[mindir]``.
        SaveError: The file did not reach its place.

    Example:
        >>> import tempfile, torch
        >>> path = export(nn.Linear(3, 2), torch.zeros(1, 3), file_name=tempfile.mkdtemp() + "/linear.onnx")
        >>> path.name
        'linear.onnx'
    """
    names = {"input_names": input_names, "output_names": output_names}
    given = {**names, "dynamic_shapes": dynamic_shapes, "opset": opset, "operators": operators}
    if file_format is None:
        file_format = _named(file_name) or ("GEIR" if isinstance(net, nn.Module) else "ONNX")
    chosen = _chosen(file_format, {name for name, value in given.items() if value is not None})
    path = _path(file_name, file_format, chosen.suffix)
    if isinstance(net, nn.Module):
        order = Order(net, as_inputs(net, inputs), path.name, verify=verify, origin=origin(net), **given)
        parts = chosen.encode(order)
    else:
        _check_files(net, inputs, file_format, given)
        parts = read_model(net, inputs[0], dec_key, dec_mode).parts(path.name)
    _write(path.parent, parts)
    return path


def _named(file_name: object) -> str | None:
    """The format that the suffix of a name tells."""
    return _BY_SUFFIX.get(Path(file_name).suffix.lower()) if isinstance(file_name, str | os.PathLike) else None


def _chosen(file_format: str, settings: set[str]) -> Format:
    if file_format not in FORMATS:
        raise SettingError(
            "file_format",
            found=repr(file_format),
            expected="one of the formats that this version writes: " + ", ".join(FORMATS),
            remedy="Export to ONNX, which most other tools convert.",
        )
    if foreign := sorted(settings - FORMATS[file_format].settings):
        raise SettingError(
            ", ".join(foreign), found="a value", expected=f"none for {file_format}", remedy="Leave it out."
        )
    return FORMATS[file_format]


def _check_files(net: object, inputs: tuple[object, ...], file_format: str, given: dict[str, Any]) -> None:
    if not isinstance(net, str | os.PathLike):
        raise SettingTypeError(
            "net",
            found=f"a {type(net).__name__}",
            expected="a torch.nn.Module, or the path of a -graph.meta file",
            remedy="Give the module first, then example inputs.",
        )
    settings = [name for name, value in given.items() if value is not None]
    if len(inputs) != 1 or not isinstance(inputs[0], str | os.PathLike) or file_format != "ONNX" or settings:
        raise SettingError(
            "export from a -graph.meta file",
            found=f"{len(inputs)} inputs, file_format={file_format!r}" + "".join(f", {name}" for name in settings),
            expected="the path of a checkpoint, the format ONNX, and no settings of tracing",
            remedy="Call export(meta_path, ckpt_path, file_name=...).",
        )


def _path(file_name: str | os.PathLike[str], file_format: str, suffix: str) -> Path:
    if not isinstance(file_name, str | os.PathLike) or not Path(file_name).name:
        raise SettingTypeError(
            "file_name", found=repr(file_name), expected="the path of a file", remedy="Give a str or a Path."
        )
    path = Path(file_name)
    if not path.suffix:
        return path.with_name(path.name + suffix)
    if path.suffix.lower() != suffix:
        message = f"{path.name}: tools know {file_format} files by the suffix {suffix}; the name is kept as it is"
        warnings.warn(message, UserWarning, stacklevel=3)
    return path


def _write(directory: Path, parts: list[Part]) -> None:
    storage = LocalStorage(directory)
    with ExitStack() as stack:
        files = [stack.enter_context(storage.create(part.name, part.nbytes)) for part in parts]
        for file, part in zip(files, parts, strict=True):
            for chunk in part.chunks:
                file.write(chunk)
        for file in files:
            file.commit()
