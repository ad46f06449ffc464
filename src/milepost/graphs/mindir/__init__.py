"""MindIR, the graph files of MindSpore: written, read back, and computed for comparison.

What a checkpoint holds, and where files go, is not known here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from milepost.graphs import frontend
from milepost.graphs.guard import untouched
from milepost.graphs.judge import judge
from milepost.graphs.lowering import hold_to_limit, lowered
from milepost.graphs.mindir.builder import MINDSPORE, Builder, Content, Pieces
from milepost.graphs.mindir.interpreter import run
from milepost.graphs.mindir.operators import TABLE
from milepost.graphs.mindir.reader import Graph, graph_of, parse
from milepost.graphs.mindir.schema import message

__all__ = ["MINDSPORE", "Content", "Graph", "encode", "parse", "run"]


def encode(
    net: nn.Module, inputs: tuple[Tensor, ...], *, verify: bool = True, facts: Mapping[str, str] | None = None
) -> list[Content]:
    """Return the content of a MindIR file for `net`, which is left exactly as it was, as pieces to be written in order.

    The weights among them are the module's own memory, where that is dense and on the CPU: write the pieces before
    the module is trained on.

    Args:
        net: The module; it is exported in eval mode.
        inputs: Example tensors; their shapes are those of the file.
        verify: Compute the file by the reference interpreter, and compare the results with the module's.
        facts: What the file says of itself.

    Raises:
        GraphError: The module cannot be expressed (all operators that are missing are listed), or the file would not
            compute the same.
        MissingExtraError: protobuf is not installed.
    """
    message("ModelProto")  # an absent protobuf is told before the work begins
    with untouched(net):
        traced = frontend.graph_of(net, inputs)
    pieces = pieces_of(traced)
    told = (facts or {}).items()
    pieces.model.user_info.extend(message("ModelProto.UserInfoEntry")(key=key, value=value) for key, value in told)
    if verify:
        check(pieces, traced, net, inputs)
    return pieces.contents()


def pieces_of(traced: frontend.Graph) -> Pieces:
    """A module's operators in terms of MindSpore's.

    Raises:
        GraphError: Some cannot be expressed; all of them are listed.
    """
    builder = Builder()
    results = lowered(traced, builder, TABLE, file_format="MINDIR", operators=f"primitives of MindSpore {MINDSPORE}")
    made = builder.pieces(traced.name, results)
    hold_to_limit(sum(map(len, made.contents())), traced.name, "MINDIR")
    return made


def check(made: Pieces, traced: frontend.Graph, net: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Compute the file by the reference interpreter; raise `GraphError` if the results are not the module's."""
    read = _readable(made, traced.name)

    def compute(batch: Sequence[Tensor]) -> list[Tensor]:
        return run(read, [tensor.detach().cpu() for tensor in batch])

    judge(net, compute, inputs, [{} for _ in inputs], list(traced.hidden_hooks))


def _readable(made: Pieces, where: str) -> Graph:
    """What a reader of these pieces would see; weights are parsed one by one: no second copy of all is held."""
    model = message("ModelProto").FromString(made.model.SerializeToString())
    graph = message("GraphProto").FromString(made.graph.SerializeToString())
    parameters = (message("TensorProto").FromString(b"".join(pieces)) for pieces in made.parameters)
    return graph_of(model, graph, parameters, where)
