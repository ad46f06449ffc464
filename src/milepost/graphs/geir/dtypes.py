"""The two numberings of element types in a GEIR file: of descriptors, and inside attributes. No tensor is made here."""

from __future__ import annotations

import torch

TO_PROTO = {
    torch.float32: 1,
    torch.float16: 2,
    torch.int8: 3,
    torch.uint8: 4,
    torch.int16: 5,
    torch.uint16: 6,
    torch.int32: 7,
    torch.int64: 8,
    torch.uint32: 9,
    torch.uint64: 10,
    torch.bool: 11,
    torch.float64: 12,
    torch.bfloat16: 27,
}
"""torch's dtype -> `DataType` of a descriptor."""

TO_ATTRIBUTE = {
    torch.float32: 0,
    torch.float16: 1,
    torch.int8: 2,
    torch.int32: 3,
    torch.uint8: 4,
    torch.int16: 6,
    torch.uint16: 7,
    torch.uint32: 8,
    torch.int64: 9,
    torch.uint64: 10,
    torch.float64: 11,
    torch.bool: 12,
    torch.bfloat16: 27,
}
"""torch's dtype -> the number that attributes such as Cast's `dst_type` use."""

FROM_PROTO = {number: dtype for dtype, number in TO_PROTO.items()}
FROM_ATTRIBUTE = {number: dtype for dtype, number in TO_ATTRIBUTE.items()}
