"""Matrix products, attention and lookups as GE operators."""

from __future__ import annotations

import math

import torch

from milepost.graphs.geir.builder import Builder, Edge
from milepost.graphs.geir.operators.calls import Call, Table, need
from milepost.graphs.lowering import broadcast


def _linear(b: Builder, call: Call) -> Edge:
    x, weight, bias = call["input"], call["weight"], call["bias"]
    rows = b.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
    return b.reshape(_product(b, rows, weight, bias, transposed=True), call.shape)


def _addmm(b: Builder, call: Call) -> Edge:
    need(call["beta"] == 1 and call["alpha"] == 1, "addmm with factors")
    product = _product(b, call["mat1"], call["mat2"])
    return b.binary("Add", product, call["self"], call.dtype)


def _matmul(b: Builder, call: Call) -> Edge:
    x, y = call["self"], call["other" if "other" in call.arguments else "mat2"]
    if x.rank == 1:
        x = b.reshape(x, (1, *x.shape))
    if y.rank == 1:
        y = b.reshape(y, (*y.shape, 1))
    if y.rank == 2:
        rows = b.reshape(x, (math.prod(x.shape[:-1]), x.shape[-1]))
        return b.reshape(_product(b, rows, y), call.shape)
    return b.reshape(_batch_product(b, x, y), call.shape)


def _product(b: Builder, x: Edge, y: Edge, bias: Edge | None = None, *, transposed: bool = False) -> Edge:
    shape = (x.shape[0], y.shape[0 if transposed else 1])
    flags = {"transpose_x1": False, "transpose_x2": transposed, "offset_x": 0}
    return b.one("MatMulV2", [x, y, bias], shape, x.dtype, **flags)


def _batch_product(b: Builder, x: Edge, y: Edge, *, transposed: bool = False) -> Edge:
    """Many products at once; both sides get the same leading dimensions."""
    leading = broadcast(x.shape[:-2], y.shape[:-2])
    x, y = (b.expand(edge, (*leading, *edge.shape[-2:])) for edge in (x, y))
    shape = (*leading, x.shape[-2], y.shape[-2 if transposed else -1])
    kind = "BatchMatMulV2" if b.current else "BatchMatMul"
    return b.one(kind, [x, y], shape, x.dtype, adj_x1=False, adj_x2=transposed)


def _attention(b: Builder, call: Call) -> Edge:
    """Scores, scaled and masked, to weights, to the mean of the values."""
    query, key, value, mask = call["query"], call["key"], call["value"], call["attn_mask"]
    need(call["dropout_p"] == 0, "attention with dropout")
    need(not call["enable_gqa"], "attention with fewer heads of keys than of queries")
    scale = call["scale"] if call["scale"] is not None else query.shape[-1] ** -0.5
    scores = _batch_product(b, query, key, transposed=True)
    scores = b.binary("Mul", scores, b.constant(scale, scores.dtype), scores.dtype)
    if call["is_causal"]:
        mask = b.weight("causal", torch.ones(scores.shape[-2:], dtype=torch.bool).tril())
    if mask is not None and mask.dtype == torch.bool:
        # The smallest number, not minus infinity: its weight is zero too, and no row becomes a row of NaN.
        least = b.constant(torch.finfo(scores.dtype).min, scores.dtype)
        scores = b.one("SelectV2", [mask, scores, least], scores.shape, scores.dtype)
    elif mask is not None:
        scores = b.binary("Add", scores, mask, scores.dtype)
    weights = b.like("SoftmaxV2", scores, axes=[scores.rank - 1])
    return _batch_product(b, weights, value)


def _embedding(b: Builder, call: Call) -> Edge:
    inputs = [call["weight"], call["indices"], b.constant(0)]
    return b.one("GatherV2", inputs, call.shape, call.dtype)


def _index_select(b: Builder, call: Call) -> Edge:
    return b.one("GatherV2", [call.x, call["index"], b.constant(call.dim())], call.shape, call.dtype)


TABLE: Table = {
    "linear.default": _linear,
    "addmm.default": _addmm,
    "matmul.default": _matmul,
    "mm.default": _matmul,
    "bmm.default": _matmul,
    "scaled_dot_product_attention.default": _attention,
    "embedding.default": _embedding,
    "index_select.default": _index_select,
}
"""torch's operator -> how it is said in GE's."""
