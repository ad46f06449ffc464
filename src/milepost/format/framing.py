"""What stands between the contents of a `.ckpt` file: the protobuf around each. Files are not known here."""

from __future__ import annotations

from functools import lru_cache

from milepost.format import schema
from milepost.format.arrays import unusable
from milepost.format.dtypes import DTYPES
from milepost.format.spec import ArraySpec
from milepost.format.wire import FIELD_LIMIT, bytes_field, bytes_head, varint_field


def framing(spec: ArraySpec, offset: int, length: int, *, may_be_placed: bool = True) -> bytes:
    """What stands at `offset`, before `length` bytes of content: a Value up to there, padded to the alignment.

    The first writers of the profile placed no content.
    """
    # MindSpore writes a text's dims as [0] and a scalar's not at all.
    tag = bytes_field(schema.VALUE_TAG, spec.name.encode())
    dims = (0,) if spec.dtype == "str" else spec.shape
    is_placed = may_be_placed and length >= schema.PLACED_NBYTES
    modulus, remainder = (schema.PLACED_MODULUS, schema.PLACED_REMAINDER) if is_placed else (schema.ALIGNMENT, 0)
    room = (remainder - offset) % modulus
    value_head, behind, nbytes = _frame(len(tag), spec.dtype, dims, length, room, modulus)
    if nbytes >= FIELD_LIMIT:
        raise unusable(spec.name[:40], f"a record of {nbytes} bytes", f"less than {FIELD_LIMIT}")
    return b"".join([value_head, tag, behind])


@lru_cache(maxsize=4096)  # a model has many tensors of one shape
def _frame(
    tag_nbytes: int, dtype: str, dims: tuple[int, ...], length: int, room: int, modulus: int
) -> tuple[bytes, bytes, int]:
    """What stands before and behind a Value's tag, up to its content, and the length of the Value.

    All before the content fills `room` up, or that and a multiple of `modulus`.
    """
    dims_fields = [varint_field(schema.TENSOR_DIMS, dim) for dim in dims]
    front = b"".join(dims_fields) + bytes_field(schema.TENSOR_TYPE, DTYPES[dtype].ckpt.encode())
    content_head = bytes_head(schema.TENSOR_CONTENT, length)
    padding = 0
    while True:  # More padding can make the lengths before it a byte longer, so one round need not be enough.
        padding_head = bytes_head(schema.TENSOR_PADDING, padding)
        tensor_nbytes = len(front) + len(padding_head) + padding + len(content_head) + length
        tensor_head = bytes_head(schema.VALUE_TENSOR, tensor_nbytes)
        value_nbytes = tag_nbytes + len(tensor_head) + tensor_nbytes
        value_head = bytes_head(schema.CHECKPOINT_VALUE, value_nbytes)
        missing = (room - len(value_head) - value_nbytes + length) % modulus
        if not missing:
            return value_head, b"".join([tensor_head, front, padding_head, bytes(padding), content_head]), value_nbytes
        padding += missing
