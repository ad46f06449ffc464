"""Does a GEIR file compute what the module does? How either computes is not known here."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from milepost.errors import GraphError
from milepost.graphs.geir.interpreter import run
from milepost.graphs.geir.reader import Graph

TOLERANCES = {torch.float16: 1e-2, torch.bfloat16: 2e-2, torch.float32: 1e-4, torch.float64: 1e-4}
"""How far a result may be from the module's, relative to the largest value of that result; others must be equal."""


def verify(graph: Graph, inputs: Sequence[Tensor], expected: Sequence[Tensor], hidden_hooks: Sequence[str]) -> None:
    """Compute `graph` by the reference interpreter, and compare.

    Raises:
        GraphError: A result is not the expected one.
    """
    results = run(graph, [tensor.detach().cpu() for tensor in inputs])
    for position, (found, wanted) in enumerate(zip(results, expected, strict=True)):
        if not _is_close(found, wanted.cpu()):
            tolerance = TOLERANCES.get(wanted.dtype, 0.0)
            hooks = f" Hooks are not exported, and {', '.join(hidden_hooks)} has some." if hidden_hooks else ""
            raise GraphError(
                graph.name,
                found=f"that result {position} of the exported graph is not the module's",
                expected=f"a difference of at most {tolerance:g} of the largest value",
                remedy="Nothing was written; report the network." + hooks,
            )


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    if found.shape != wanted.shape or found.dtype != wanted.dtype:
        return False
    if wanted.dtype not in TOLERANCES:
        return torch.equal(found, wanted)
    finite = wanted[wanted.isfinite()].abs()
    scale = float(finite.max()) if finite.numel() else 0.0
    return torch.allclose(
        found.double(), wanted.double(), rtol=0, atol=TOLERANCES[wanted.dtype] * scale, equal_nan=True
    )
