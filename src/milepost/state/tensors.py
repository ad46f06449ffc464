"""One tensor <-> its spec and its bytes. What the tensor is for is not known here."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from milepost.errors import NotACheckpointError, UnsupportedStateError
from milepost.format.dtypes import DTYPES
from milepost.format.spec import Array, ArraySpec

FROM_TORCH: dict[torch.dtype, str] = {getattr(torch, name): name for name in DTYPES if name not in ("int4", "str")}
# MindSpore's Int4 holds a byte for each element; torch's dtype of that name holds nothing that can be computed with.
TO_TORCH: dict[str, torch.dtype] = {name: dtype for dtype, name in FROM_TORCH.items()} | {"int4": torch.int8}


_NUMPYS_TOO = {torch.float32, torch.float64, torch.float16, torch.int64, torch.int32}
"""Those of NumPy's dtypes that most tensors have; to look at others as bytes takes an operator of torch's."""


def array_of(name: str, kind: str, tensor: torch.Tensor) -> Array:
    """Name `tensor` for a file; its bytes are taken when the writer asks for them.

    Args:
        name: The entry's name.
        kind: One of `milepost.format.spec.KINDS`.
        tensor: Any dense tensor, on any device, of any strides; only its own elements are written, not the storage
            that it is a view of.

    Raises:
        UnsupportedStateError: The tensor is sparse, quantized, nested or on the meta device, or of a dtype that the
            format has no name for.
    """
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_nested or tensor.is_meta:
        kind_of = "without data (meta device)" if tensor.is_meta else str(tensor.layout)
        raise UnsupportedStateError(
            name, found=f"a tensor that is {kind_of}", expected="a dense tensor", remedy="Convert it before saving."
        )
    dtype = FROM_TORCH.get(tensor.dtype)
    if dtype is None:
        raise UnsupportedStateError(
            name,
            found=f"a tensor of {tensor.dtype}",
            expected="one of " + ", ".join(FROM_TORCH.values()),
            remedy="Convert it before saving.",
        )
    return Array(ArraySpec(name, dtype, tuple(tensor.shape)), kind, partial(content_of, tensor))


def content_of(tensor: torch.Tensor) -> memoryview:
    """The elements' bytes in C order: the tensor's own memory where it is contiguous on the CPU, else a copy."""
    dense = tensor.detach()
    if dense.is_conj() or dense.is_neg() or not dense.is_cpu or not dense.is_contiguous():
        dense = dense.resolve_conj().resolve_neg().cpu().contiguous()
    return bytes_of(dense)


def bytes_of(tensor: torch.Tensor) -> memoryview:
    """A flat, writable view of a contiguous CPU tensor's memory."""
    if tensor.ndim == 0 or tensor.stride(-1) != 1 or tensor.numel() == 0:  # contiguous whatever such strides are
        tensor = tensor.as_strided((tensor.numel(),), (1,))
    content: npt.NDArray[Any] = (tensor if tensor.dtype in _NUMPYS_TOO else tensor.view(torch.uint8)).numpy()
    # NumPy's stubs for Python 3.11 do not say that it is a buffer.
    return memoryview(content).cast("B")  # type: ignore[arg-type]


def fills_from(place: torch.Tensor, dtype: str) -> bool:
    """Whether elements of that dtype of a file, in C order, can be read straight into the tensor's own memory."""
    if place.dtype != TO_TORCH.get(dtype) or dtype == "bool":  # truth values are looked at first
        return False
    is_plain = place.layout == torch.strided and not place.is_conj() and not place.is_neg()
    return is_plain and place.is_cpu and place.is_contiguous()


def in_turn(*tensors: torch.Tensor) -> Callable[[], AbstractContextManager[object]]:
    """What lets another thread work on the tensors in its turn: on the CUDA streams that this one gives its work to."""
    streams = [torch.cuda.current_stream(device) for device in {each.device for each in tensors if each.is_cuda}]

    @contextmanager
    def entered() -> Iterator[None]:
        with ExitStack() as stack:
            for stream in streams:
                stack.enter_context(torch.cuda.stream(stream))
            yield

    return entered if streams else nullcontext


def over(where: str, spec: ArraySpec, content: bytearray | memoryview) -> torch.Tensor:
    """A tensor whose memory is `content`, which is not empty.

    Raises:
        NotACheckpointError: This version of torch has no such dtype.
    """
    return torch.frombuffer(content, dtype=_dtype(where, spec)).reshape(spec.shape)


def empty(where: str, spec: ArraySpec, device: str = "cpu") -> torch.Tensor:
    """A new tensor of the spec's dtype and shape, not initialised.

    Raises:
        NotACheckpointError: This version of torch has no such dtype.
    """
    return torch.empty(spec.shape, dtype=_dtype(where, spec), device=device)


def _dtype(where: str, spec: ArraySpec) -> torch.dtype:
    if spec.dtype not in TO_TORCH:
        raise NotACheckpointError(
            f"{where}, entry {spec.name!r}",
            found=f"the dtype {spec.dtype}",
            expected="a dtype that torch has",
            remedy="Leave the entry out with filter_prefix, or convert the file.",
        )
    return TO_TORCH[spec.dtype]


def as_tensor(name: str, value: Any) -> torch.Tensor:
    """A tensor, an array, a number or a bool as a tensor.

    Raises:
        UnsupportedStateError: torch has no such tensor.
    """
    if isinstance(value, torch.Tensor):
        return value
    try:
        if isinstance(value, np.ndarray):
            # torch takes neither a foreign byte order nor negative strides.
            value = np.array(value, dtype=value.dtype.newbyteorder("="), order="C")
        dtype = torch.float64 if isinstance(value, float) else None
        return torch.as_tensor(value, dtype=dtype, device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise unusable(name, f"{type(value).__name__}: {error}") from error


def as_value(name: str, value: Any) -> Any:
    """Arrays as tensors, everything else as it is."""
    return as_tensor(name, value) if isinstance(value, np.ndarray | np.generic) else value


def unusable(name: str, found: str) -> UnsupportedStateError:
    """The error for a value that cannot be stored."""
    return UnsupportedStateError(
        name,
        found=found,
        expected="a tensor, an array, a number, a bool or a text",
        remedy="Convert it, or leave it out.",
    )
