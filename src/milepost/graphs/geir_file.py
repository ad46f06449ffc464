"""A module as a GEIR file. Where files go is not known here."""

from __future__ import annotations

from milepost.graphs import geir
from milepost.graphs.files import Order, Part


def encode(order: Order) -> list[Part]:
    """Trace a module for inputs of exactly these shapes, and say it in GE's operators."""
    pieces = geir.encode(order.net, order.inputs, operators=order.operators or "current", verify=order.verify)
    return [Part(order.file_name, sum(map(len, pieces)), pieces)]
