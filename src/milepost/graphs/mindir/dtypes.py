"""The two numberings of element types in a MindIR file: of tensors, and in Cast's argument. No tensor is made here."""

from __future__ import annotations

import torch

TO_PROTO = {
    torch.float32: 1,
    torch.uint8: 2,
    torch.int8: 3,
    torch.uint16: 4,
    torch.int16: 5,
    torch.int32: 6,
    torch.int64: 7,
    torch.bool: 9,
    torch.float16: 10,
    torch.float64: 11,
    torch.uint32: 12,
    torch.uint64: 13,
    torch.bfloat16: 16,
}
"""torch's dtype -> `data_type` of a tensor."""

TO_TYPE_ID = {
    torch.bool: 30,
    torch.int8: 32,
    torch.int16: 33,
    torch.int32: 34,
    torch.int64: 35,
    torch.uint8: 37,
    torch.uint16: 38,
    torch.uint32: 39,
    torch.uint64: 40,
    torch.float16: 42,
    torch.float32: 43,
    torch.float64: 44,
    torch.bfloat16: 45,
}
"""torch's dtype -> MindSpore's own number of the type, which Cast takes."""

FROM_PROTO = {number: dtype for dtype, number in TO_PROTO.items()}
FROM_TYPE_ID = {number: dtype for dtype, number in TO_TYPE_ID.items()}
