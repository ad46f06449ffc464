"""A module as a MindIR file. Where files go is not known here."""

from __future__ import annotations

from milepost.graphs import mindir
from milepost.graphs.files import Order, Part


def encode(order: Order) -> list[Part]:
    """Trace a module for inputs of exactly these shapes, and say it in MindSpore's primitives."""
    pieces = mindir.encode(order.net, order.inputs, verify=order.verify, facts=order.facts)
    return [Part(order.file_name, sum(map(len, pieces)), pieces)]
