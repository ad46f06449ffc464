"""onnxruntime behind tensors. Which graph it runs, and whose weights these are, is not known here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from milepost.errors import GraphError


class Session:
    """A graph in onnxruntime, on the CPU.

    Args:
        content: The ONNX model.
        where: What it is, for messages.
        weights: Initializers of the model that are kept outside of it.

    Raises:
        GraphError: onnxruntime refuses the graph.
    """

    def __init__(self, content: bytes, where: str, weights: Mapping[str, Tensor] | None = None) -> None:
        import onnxruntime

        self._where = where
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what is fatal; it warns about initializers that it folds, and raises errors
        try:
            self._weights = {name: _value(tensor) for name, tensor in (weights or {}).items()}
            if self._weights:
                options.add_external_initializers(list(self._weights), list(self._weights.values()))
            self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own exceptions share no other base
            raise self._refused(error, "Use dtypes and operators that onnxruntime has.") from error
        self.input_names = [value.name for value in self._session.get_inputs()]
        self.output_names = [value.name for value in self._session.get_outputs()]

    def run(self, inputs: Sequence[Tensor | np.ndarray]) -> list[Tensor]:
        """Compute; raises `GraphError` where onnxruntime does not take the inputs."""
        try:
            feed = {name: _array(value) for name, value in zip(self.input_names, inputs, strict=True)}
            results = self._session.run(None, feed)
        except Exception as error:
            wanted = ", ".join(f"{value.name}: {value.type} {value.shape}" for value in self._session.get_inputs())
            raise self._refused(error, f"The inputs of the graph are {wanted}.") from error
        return [torch.from_numpy(np.asarray(result)) for result in results]

    def _refused(self, error: Exception, remedy: str) -> GraphError:
        return GraphError(
            self._where,
            found=f"a graph that onnxruntime does not run: {str(error).partition(chr(10))[0]}",
            expected="a graph, and inputs, that it runs",
            remedy=remedy,
        )


def _array(value: Tensor | np.ndarray) -> np.ndarray:
    return value.numpy(force=True) if isinstance(value, Tensor) else np.asarray(value)


def _value(tensor: Tensor) -> Any:
    from onnxruntime import OrtValue

    if tensor.dtype == torch.bfloat16:  # NumPy has no such numbers
        from onnx import TensorProto

        bits = tensor.contiguous().view(torch.int16).numpy(force=True)
        return OrtValue.ortvalue_from_numpy_with_onnx_type(bits, TensorProto.BFLOAT16)
    return OrtValue.ortvalue_from_numpy(np.ascontiguousarray(tensor.numpy(force=True)).reshape(tuple(tensor.shape)))
