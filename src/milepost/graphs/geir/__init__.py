"""GEIR, the graph files of Huawei's Graph Engine (later called AIR): written, read, and computed for comparison.

What a checkpoint holds, and where files go, is not known here.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from milepost.errors import SettingError
from milepost.graphs import frontend
from milepost.graphs.geir.builder import Builder, Content, Pieces
from milepost.graphs.geir.interpreter import run
from milepost.graphs.geir.operators import TABLE
from milepost.graphs.geir.reader import Desc, Graph, Op, graph_of, parse
from milepost.graphs.geir.schema import message
from milepost.graphs.guard import untouched
from milepost.graphs.judge import judge
from milepost.graphs.lowering import hold_to_limit, lowered
from milepost.storage.local import LocalStorage

__all__ = ["Content", "Desc", "Graph", "Op", "encode", "load", "run"]

OPERATORS = ("current", "2020")
"""The sets of operators that a file may be written in."""


def load(path: str | os.PathLike[str]) -> Graph:
    """Read a GEIR file, of Milepost's or of another's.

    Args:
        path: The file.

    Returns:
        The graph: `str` lists its ops, `counts` and `weights` tell what it holds, `run` computes it.

    Raises:
        CheckpointNotFoundError: There is no such file.
        GraphError: It is not a GEIR file.
        MissingExtraError: protobuf is not installed.

    Example:
        >>> import tempfile, torch
        >>> from milepost.graphs.geir import encode, load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "net.air")
        ...     _ = path.write_bytes(b"".join(encode(nn.Linear(3, 2), (torch.zeros(1, 3),))))
        ...     graph = load(path)
        >>> sorted(graph.counts.items())
        [('Const', 2), ('Data', 1), ('MatMulV2', 1), ('NetOutput', 1)]
        >>> list(graph.weights)
        ['weight', 'bias']
    """
    message("ModelDef")  # an absent protobuf is told first
    path = Path(path)
    with LocalStorage(path.parent).open(path.name) as file:
        return parse(file.read(0, file.nbytes), str(path))


def encode(
    net: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    operators: str = "current",
    verify: bool = True,
) -> list[Content]:
    """Return the content of a GEIR file for `net`, which is left exactly as it was, as pieces to be written in order.

    The weights among them are the module's own memory, where that is dense and on the CPU: write the pieces before
    the module is trained on.

    Args:
        net: The module; it is exported in eval mode.
        inputs: Example tensors; their shapes are those of the file.
        operators: ``2020`` for the set of MindSpore r0.6's time, ``current`` for what came since, too.
        verify: Compute the file by the reference interpreter, and compare the results with the module's.

    Raises:
        SettingError: There is no such set of operators.
        GraphError: The module cannot be expressed (all operators that GEIR lacks are listed), or the file would not
            compute the same.
        MissingExtraError: protobuf is not installed.
    """
    if operators not in OPERATORS:
        raise SettingError(
            "operators",
            found=repr(operators),
            expected=" or ".join(map(repr, OPERATORS)),
            remedy="Use 'current', or '2020' for tools as old as MindSpore r0.6.",
        )
    message("ModelDef")  # an absent protobuf is told before the work begins
    with untouched(net):
        traced = frontend.graph_of(net, inputs)
    pieces = pieces_of(traced, operators)
    if verify:
        check(pieces, traced, net, inputs)
    return pieces.contents()


def pieces_of(traced: frontend.Graph, operators: str) -> Pieces:
    """A module's operators in terms of GE's.

    Raises:
        GraphError: Some cannot be expressed; all of them are listed.
    """
    builder = Builder(current=operators == "current")
    results = lowered(traced, builder, TABLE, file_format="GEIR", operators=f"operators of the set {operators}")
    made = builder.pieces(traced.name, results)
    hold_to_limit(sum(map(len, made.contents())), traced.name, "GEIR")
    return made


def check(made: Pieces, traced: frontend.Graph, net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Compute the file by the reference interpreter; raise `GraphError` if the results are not the module's."""
    read = _readable(made, traced.name)

    def compute(batch: Sequence[Tensor]) -> list[Tensor]:
        return run(read, [tensor.detach().cpu() for tensor in batch])

    judge(net, compute, inputs, [{} for _ in inputs], list(traced.hidden_hooks))


def _readable(made: Pieces, where: str) -> Graph:
    """What a reader of these pieces would see; they are parsed op by op, so that no second copy of all is held."""
    ops = (message("OpDef").FromString(b"".join(op)) for op in made.ops)
    return graph_of(made.graph, ops, where)
