"""The numbers of the `.ckpt` format: MindSpore's messages, and what Milepost's profile adds. Nothing is read here.

Sources: MindSpore's ``mindspore/ccsrc/utils/checkpoint.proto``; ``docs/format.md`` for the profile.
"""

from __future__ import annotations

import struct

from milepost.format.wire import bytes_head

CHECKPOINT_VALUE = 1
VALUE_TAG, VALUE_TENSOR, VALUE_MAPTENSOR = 1, 2, 3
TENSOR_DIMS, TENSOR_TYPE, TENSOR_CONTENT = 1, 2, 3

TENSOR_PADDING = 15
"""The profile's own field in a TensorProto: the highest number whose key is one byte, so the likeliest to stay free."""

HEADER_FIELD, METADATA_FIELD, INDEX_FIELD, FOOTER_FIELD = 1000, 1001, 1002, 1003
"""The profile's own fields in a Checkpoint."""

PROFILE = 1
"""The version of the profile that is written, and the newest one that is read."""

ALIGNMENT = 64
"""Every content starts at a multiple of this: the length of a cache line, and what vector units ask for."""

PLACED_NBYTES, PLACED_MODULUS, PLACED_REMAINDER = 1 << 20, 512, 64
"""A content of 1 MiB and more starts 64 bytes behind a multiple of 512. So does memory of that size for which the
allocator has mapped pages, behind its own notes; and what lies alike in memory and file can go to a disk without a
copy. A tensor in memory that was used before lies anywhere; to follow that would give one state many files."""

SLICE_NBYTES = 512 << 20
"""A longer content is cut, as MindSpore cuts it, so that no message comes near protobuf's 2 GiB."""

DIMENSIONS_LIMIT = 64
"""What NumPy allows, and torch; a file that claims more only costs time."""

MAGIC = b"MILEPOST\r\n\x1a"
"""First in the header, last in the file. The line end shows a transfer as text, the control character stops one."""

HEADER_FORMAT = struct.Struct("<11sH")
HEADER_HEAD = bytes_head(HEADER_FIELD, HEADER_FORMAT.size)
HEADER_NBYTES = len(HEADER_HEAD) + HEADER_FORMAT.size

FOOTER_FORMAT = struct.Struct("<QQQQQQQH11s")
FOOTER_HEAD = bytes_head(FOOTER_FIELD, FOOTER_FORMAT.size)
FOOTER_NBYTES = len(FOOTER_HEAD) + FOOTER_FORMAT.size
