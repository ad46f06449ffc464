"""A module as torch's own file of an exported program. Where files go is not known here."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence

import torch
from torch.utils import _pytree as pytree

from milepost.graphs.files import Order, Part
from milepost.graphs.guard import hide_hooks, untouched
from milepost.graphs.judge import judge
from milepost.graphs.trace import exported_program, free_dimensions, telling


def encode(order: Order) -> list[Part]:
    """Trace a module, and check what torch reads back."""
    net = order.net
    buffer = io.BytesIO()
    with untouched(net):
        hidden = hide_hooks(net)
        with telling(net, order.inputs):
            exported = exported_program(net, order.inputs, order.dynamic_shapes)
            torch.export.save(exported, buffer, extra_files={"milepost.json": json.dumps(order.facts)})
    free = free_dimensions(exported)
    order.tell_of_fixed_batch(free)
    if order.verify:
        with telling(net, order.inputs):
            loaded = torch.export.load(io.BytesIO(buffer.getbuffer())).module()

        def run(inputs: Sequence[torch.Tensor]) -> list[torch.Tensor]:
            with telling(net, order.inputs):
                results = pytree.tree_leaves(loaded(*(tensor.clone() for tensor in inputs)))
            return [result.detach().cpu() for result in results if isinstance(result, torch.Tensor)]

        judge(net, run, order.inputs, free, hidden)
    return [Part(order.file_name, buffer.getbuffer().nbytes, [buffer.getbuffer()])]
