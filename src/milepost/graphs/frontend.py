"""A module and example inputs -> a small typed graph of ATen operators. No file format is known here."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, TensorArgument
from torch.utils import _pytree as pytree

from milepost.graphs.guard import hide_hooks
from milepost.graphs.trace import exported_program, telling

_SAME = {"clone", "contiguous", "detach", "alias", "dropout", "lift_fresh_copy", "lift_fresh"}
"""Operators that give what they are given, in eval mode and where nothing works in place."""


@dataclass(frozen=True)
class Value:
    """A tensor of the graph: its distinct `name`, shape and dtype."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Node:
    """One call of an operator.

    Args:
        op: Name and overload, such as ``conv2d.default``.
        arguments: Every argument of the operator by name, defaults too; tensors are `Value`s.
        outputs: What it gives; None for a result that is no tensor.
        module: The path of the module it stands in, "" for the outermost.
        kind: The class of that module.
    """

    op: str
    arguments: dict[str, Any]
    outputs: tuple[Value | None, ...]
    module: str
    kind: str

    @property
    def place(self) -> str:
        """Where it stands, in words."""
        return f"{self.module} ({self.kind})" if self.module else self.kind


@dataclass(frozen=True)
class Graph:
    """A module as a list of nodes, in an order in which they can be computed.

    Args:
        name: The module's class.
        inputs: The arguments of forward, under their names.
        weights: Name in the state dict to the module's own tensor; those only that the nodes use.
        constants: Name to what the module computes from no input and no parameter.
        nodes: The calls.
        outputs: The results, flat.
        hidden_hooks: The modules whose hooks are not in the graph.
    """

    name: str
    inputs: tuple[Value, ...]
    weights: dict[str, Tensor]
    constants: dict[str, Tensor]
    nodes: tuple[Node, ...]
    outputs: tuple[Value, ...]
    hidden_hooks: tuple[str, ...]


def graph_of(net: nn.Module, inputs: tuple[Tensor, ...]) -> Graph:
    """List the operators of `net`, which stands in `guard.untouched`, for inputs of exactly these shapes.

    Args:
        net: The module.
        inputs: Example tensors, one for each argument of forward.

    Raises:
        GraphError: Something in the module cannot be expressed as a graph.
    """
    hidden = hide_hooks(net)
    with telling(net, inputs), _attention_in_parts():
        exported = exported_program(net, inputs, {}).run_decompositions({})
        return _Reader(net, exported).graph(tuple(hidden))


@contextmanager
def _attention_in_parts() -> Iterator[None]:
    """Without the shortcut by which torch's encoder layers become one operator that nobody else has."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Reader:
    """One pass over torch's graph, in which what is constant is computed and what changes nothing is dropped."""

    def __init__(self, net: nn.Module, exported: torch.export.ExportedProgram) -> None:
        self.net, self.exported = net, exported
        self.values: dict[str, Any] = {}  # torch's name -> what it stands for: a Value, a tuple of them, a constant
        self.tensors: dict[str, Tensor] = {}  # what Values that are known beforehand hold
        self.parameters: set[str] = set()
        self.nodes: list[Node] = []

    def graph(self, hidden_hooks: tuple[str, ...]) -> Graph:
        inputs = self._placeholders()
        for node in self.exported.graph.nodes:
            if node.op == "call_function":
                self._call(node)
        outputs = tuple(self._results())
        nodes = self._needed(outputs)
        used = {value.name for node in nodes for value in leaves(node.arguments)} | {value.name for value in outputs}
        held = {name: tensor for name, tensor in self.tensors.items() if name in used}
        return Graph(
            type(self.net).__name__,
            inputs,
            {name: tensor for name, tensor in held.items() if name in self.entries},
            {name: tensor for name, tensor in held.items() if name not in self.entries},
            nodes,
            outputs,
            hidden_hooks,
        )

    def _placeholders(self) -> tuple[Value, ...]:
        names: dict[int, str] = {}
        for name, tensor in self.net.state_dict(keep_vars=True).items():
            names.setdefault(id(tensor), name)  # of tied ones the first
        self.entries = set(names.values())
        metas = {node.name: node.meta.get("val") for node in self.exported.graph.nodes if node.op == "placeholder"}
        taken, inputs = set(self.entries), []
        for spec in self.exported.graph_signature.input_specs:
            if not isinstance(spec.arg, TensorArgument):
                continue
            meta = metas[spec.arg.name]
            if spec.kind is InputKind.USER_INPUT:
                value = Value(distinct(spec.arg.name, taken), tuple(meta.shape), meta.dtype)
                inputs.append(value)
            else:
                tensor = self._held(spec.target or "")
                name = names.get(id(tensor)) or distinct(spec.arg.name, taken)
                value = Value(name, tuple(tensor.shape), tensor.dtype)
                self.tensors[name] = tensor
                if spec.kind is InputKind.PARAMETER:
                    self.parameters.add(name)
            taken.add(value.name)
            self.values[spec.arg.name] = value
        self.taken = taken
        return tuple(inputs)

    def _held(self, target: str) -> Tensor:
        held = {**self.exported.constants, **self.exported.state_dict}
        tensor = held[target]
        assert isinstance(tensor, Tensor)
        return tensor

    def _call(self, node: torch.fx.Node) -> None:
        if not isinstance(node.target, torch._ops.OpOverload):  # operator.getitem
            source, position = self._read(node.args)
            self.values[node.name] = source[position]
            return
        arguments = self._arguments(node)
        name = node.target.overloadpacket.__name__
        if name.startswith(("_assert", "sym_constrain", "assert")) or "val" not in node.meta:
            return
        if name in _SAME and not arguments.get("train"):
            self.values[node.name] = next(iter(arguments.values()))
            return
        if self._is_constant(node.target, arguments):
            self.values[node.name] = self._compute(node, arguments)
            return
        outputs = tuple(
            self._value(node.name, meta, number) for number, meta in enumerate(pytree.tree_leaves(node.meta["val"]))
        )
        self.values[node.name] = outputs if isinstance(node.meta["val"], tuple | list) else outputs[0]
        path, kind = _stand(node, type(self.net).__name__)
        self.nodes.append(Node(f"{name}.{node.target._overloadname}", arguments, outputs, path, kind))

    def _value(self, name: str, meta: object, number: int) -> Value | None:
        if not isinstance(meta, Tensor):
            return None
        name = distinct(name if number == 0 else f"{name}_{number}", self.taken)
        self.taken.add(name)
        return Value(name, tuple(meta.shape), meta.dtype)

    def _read(self, argument: Any) -> Any:
        return pytree.tree_map(
            lambda leaf: self.values[leaf.name] if isinstance(leaf, torch.fx.Node) else leaf, argument
        )

    def _arguments(self, node: torch.fx.Node) -> dict[str, Any]:
        assert isinstance(node.target, torch._ops.OpOverload)
        schema = node.target._schema.arguments
        given = dict(zip((argument.name for argument in schema), self._read(list(node.args)), strict=False))
        given.update(self._read(dict(node.kwargs)))
        return {argument.name: given.get(argument.name, argument.default_value) for argument in schema}

    def _is_constant(self, target: torch._ops.OpOverload, arguments: dict[str, Any]) -> bool:
        if torch.Tag.nondeterministic_seeded in target.tags:
            return False
        return all(value.name in self.tensors and value.name not in self.parameters for value in leaves(arguments))

    def _compute(self, node: torch.fx.Node, arguments: dict[str, Any]) -> Any:
        target: Any = node.target
        real = pytree.tree_map(lambda leaf: self.tensors[leaf.name] if isinstance(leaf, Value) else leaf, arguments)
        with torch.no_grad():
            result = target(**{("self" if name == "self" else name): value for name, value in real.items()})
        held = []
        for number, tensor in enumerate(pytree.tree_leaves(result)):
            value = self._value(node.name, tensor, number)
            if value is not None:
                self.tensors[value.name] = tensor
            held.append(value)
        return tuple(held) if isinstance(result, tuple | list) else held[0]

    def _results(self) -> Iterator[Value]:
        (output,) = (node for node in self.exported.graph.nodes if node.op == "output")
        specs = self.exported.graph_signature.output_specs
        for spec, leaf in zip(specs, output.args[0], strict=True):
            if spec.kind.name != "USER_OUTPUT" or leaf is None:  # the others update buffers, which no file can do
                continue
            yield self.values[leaf.name]

    def _needed(self, outputs: tuple[Value, ...]) -> tuple[Node, ...]:
        needed, kept = {value.name for value in outputs}, []
        for node in reversed(self.nodes):
            if any(value is not None and value.name in needed for value in node.outputs):
                needed |= {value.name for value in leaves(node.arguments)}
                kept.append(node)
        return tuple(reversed(kept))


def leaves(arguments: object) -> Iterator[Value]:
    """The tensors among the arguments of a node."""
    return (leaf for leaf in pytree.tree_leaves(arguments) if isinstance(leaf, Value))


def distinct(name: str, taken: set[str]) -> str:
    """Return `name`, or with a number after it if it is taken."""
    number, candidate = 1, name
    while candidate in taken:
        number += 1
        candidate = f"{name}_{number}"
    return candidate


def _stand(node: torch.fx.Node, outermost: str) -> tuple[str, str]:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path, kind = stack[-1] if stack else ("", outermost)
    kind = kind if isinstance(kind, str) else kind.__name__
    return path, kind.rpartition(".")[2]
