"""`load_model`: a graph and a checkpoint as something to call, without the module's class. Nothing is written here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from milepost.checkpoint.loading import load_checkpoint
from milepost.format import encryption
from milepost.graphs import onnx_file
from milepost.graphs.files import Part
from milepost.graphs.meta import join, restate, sound
from milepost.graphs.trace import need_onnx
from milepost.origin import facts
from milepost.paths import check_path
from milepost.storage.local import LocalStorage

if TYPE_CHECKING:
    import onnx


class LoadedModel:
    """What `load_model` returns: call it with tensors or arrays, as the module that was trained.

    Attributes:
        input_names: The names of its inputs.
        output_names: The names of its outputs.
        metadata: What the graph tells of itself: ``model``, ``run``, ``checkpoint``, ``epoch``, ``step``, ...
    """

    def __init__(self, model: Model) -> None:
        parts = model.parts("model.onnx")  # a name that is only needed inside
        self._where = model.where
        self._session = onnx_file.session(parts, model.tensors, model.where)
        self.input_names = self._session.input_names
        self.output_names = self._session.output_names
        self.metadata = {line.key: line.value for line in model.proto.metadata_props}

    def __call__(self, *inputs: Tensor | np.ndarray) -> Tensor | tuple[Tensor, ...]:
        """Compute, in eval mode and on the CPU: one result, or a tuple of several.

        Raises:
            GraphError: The inputs are not what the graph takes.
        """
        results = self._session.run(inputs)
        return results[0] if len(results) == 1 else tuple(results)

    def __repr__(self) -> str:
        return f"<{self._where}: {', '.join(self.input_names)} -> {', '.join(self.output_names)}>"


def load_model(
    graph_meta: str | os.PathLike[str],
    ckpt_file_name: str | os.PathLike[str],
    *,
    dec_key: bytes | None = None,
    dec_mode: str = encryption.DEFAULT,
) -> LoadedModel:
    """Make a model from a run's ``-graph.meta`` and one of its checkpoints; the Python class is not needed.

    Args:
        graph_meta: The path of the graph that the training wrote.
        ckpt_file_name: The path of any checkpoint of that run.
        dec_key: The key of an encrypted checkpoint.
        dec_mode: How it is encrypted, as for `load_checkpoint`.

    Returns:
        Something to call with tensors or arrays, which onnxruntime computes.

    Raises:
        CheckpointNotFoundError: One of the files is not there.
        GraphError: The first file is not such a graph.
        MismatchError: Names, shapes or dtypes of the two differ; all of them are listed.
        NotACheckpointError: The second file is something else.
        DamagedCheckpointError: The checkpoint's bytes are not what was saved.
        MissingExtraError: onnx or onnxruntime is not installed.

    Example:
        >>> import tempfile, torch
        >>> from milepost import save_checkpoint
        >>> from milepost.graphs import graph_meta
        >>> net, folder = torch.nn.Linear(3, 2), Path(tempfile.mkdtemp())
        >>> _ = (folder / "net-graph.meta").write_bytes(graph_meta(net, torch.zeros(1, 3)))
        >>> model = load_model(folder / "net-graph.meta", save_checkpoint(net, folder / "net.ckpt"))
        >>> torch.allclose(model(torch.ones(5, 3)), net(torch.ones(5, 3)), atol=1e-6)
        True
    """
    need_onnx("running a graph", "onnx", "onnxruntime")
    return LoadedModel(read_model(graph_meta, ckpt_file_name, dec_key, dec_mode))


@dataclass(frozen=True)
class Model:
    """A graph and, beside it, the weights of a checkpoint that fit it."""

    proto: onnx.ModelProto
    tensors: dict[str, Tensor]
    where: str

    def parts(self, file_name: str) -> list[Part]:
        """The files of the whole model."""
        return onnx_file.pack(self.proto, self.tensors, file_name)


def read_model(
    graph_meta: object, ckpt_file_name: object, dec_key: bytes | None = None, dec_mode: str = encryption.DEFAULT
) -> Model:
    """Read and check both files."""
    path = _path(graph_meta)
    with LocalStorage(path.parent).open(path.name) as file:
        content = file.read(0, file.nbytes)
    checkpoint = _path(ckpt_file_name)
    need_onnx("reading a graph", "onnx")
    with load_checkpoint(checkpoint, dec_key=dec_key, dec_mode=dec_mode) as parameters, sound(str(path)):
        proto, tensors = join(content, parameters, str(path))
        restate(proto, onnx_file.KIND_WITH_WEIGHTS, facts(checkpoint.name, parameters.metadata))
    return Model(proto, tensors, f"{path} with {checkpoint}")


def _path(value: object) -> Path:
    return check_path(
        "graph_meta and ckpt_file_name",
        value,
        "the paths of a -graph.meta file and of a checkpoint",
        "Give a str or a Path for each.",
    )
