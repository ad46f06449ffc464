"""Names that differ in their numbers only, told as one: groups of them, and a tree. What is named is not known here."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field

_DTYPES = "".join(rf"(?<!torch\.{kind})" for kind in ("float", "bfloat", "int", "uint", "complex"))
_NUMBER = re.compile(rf"((?:(?<=^)|(?<=> )|(?<=[A-Za-z_.])){_DTYPES}\d+)")
"""A number in a name: each of ``layer1.0.conv2.weight_3``. Those of dtypes and shapes are told as they are."""


def groups(lines: Iterable[str], apart: Iterable[Hashable] | None = None) -> list[tuple[str, list[int]]]:
    """Return the patterns of lines, each with the positions of those that it stands for, in order.

    Args:
        lines: The lines.
        apart: For each line something that must be equal too, for two lines to be told as one.

    >>> groups(["layer1.0.weight", "layer2.0.weight", "fc.bias"])
    [('layer*.0.weight', [0, 1]), ('fc.bias', [2])]
    """
    lines = list(lines)
    found: dict[Hashable, tuple[list[list[str]], list[int]]] = {}
    for position, (line, more) in enumerate(zip(lines, [None] * len(lines) if apart is None else apart, strict=True)):
        text_and_numbers = _NUMBER.split(line)
        items, positions = found.setdefault((tuple(text_and_numbers[::2]), more), ([], []))
        items.append(text_and_numbers)
        positions.append(position)
    return [
        ("".join(parts[0] if len(set(parts)) == 1 else "*" for parts in zip(*items, strict=True)), positions)
        for items, positions in found.values()
    ]


@dataclass
class Node:
    """A part of names with all that begins with it.

    Args:
        label: The part, e.g. ``layer*``; of nodes with one child each, their parts joined by dots.
        positions: Which lines are here or below.
        children: The parts that follow; none where names end.
    """

    label: str
    positions: list[int] = field(default_factory=list)
    children: list[Node] = field(default_factory=list)


def tree(patterns: Iterable[tuple[str, list[int]]]) -> list[Node]:
    """Return what `groups` returned as a tree of the names' parts, in order.

    >>> [(node.label, [child.label for child in node.children]) for node in tree(groups(
    ...     ["conv1.weight", "layer1.0.weight", "layer1.0.bias", "layer2.0.weight", "layer2.0.bias"]))]
    [('conv1.weight', []), ('layer*.0', ['weight', 'bias'])]
    """
    root = Node("")
    for pattern, positions in patterns:
        node = root
        *parts, last = pattern.split(".")
        for part in parts:
            child = next((each for each in node.children if each.label == part and each.children), None)
            if child is None:
                node.children.append(child := Node(part))
            node = child
            node.positions += positions
        node.children.append(Node(last, list(positions)))
    return [_joined(node) for node in root.children]


def _joined(node: Node) -> Node:
    children = [_joined(child) for child in node.children]
    if len(children) == 1:
        return Node(f"{node.label}.{children[0].label}", children[0].positions, children[0].children)
    return Node(node.label, node.positions, children)
