"""Files that nobody saved: sound ones taken apart, changed, put together with every checksum right. No loading here.

A mutant whose checksums are wrong is refused at the first of them. So most are forged as somebody would who means harm:
the parts that hold numbers and names are changed, and then whatever vouches for them.
"""

from __future__ import annotations

import copy
import json
import zlib
from dataclasses import dataclass, field
from random import Random
from typing import Any

from milepost.format import schema, wire
from milepost.format.checksum import Checksum
from milepost.format.crc import MAGIC as CRC_MAGIC
from milepost.format.crc import NBYTES as CRC_NBYTES

NUMBERS = (
    0,
    1,
    2,
    3,
    4,
    63,
    64,
    65,
    127,
    128,
    255,
    2**31 - 1,
    2**31,
    2**32,
    10**10,
    2**53,
    2**62,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
"""Where counting goes wrong."""

VALUES: tuple[Any, ...] = (
    *NUMBERS, -1, -64, -(2**63), 2**64, 0.5, 1e308, True, None, "", "w", "optimizer", "1e999", "\ud800",
    "../../etc/passwd", "float32", "bool", "str", "bfloat16", "int4", "parameter", "random", "nan", "inf",
    [], {}, [[]], [0], [64, 24], [2**62, 4], [2**32, 2**32], {"params": []},
    {"$entry": "fc.weight"}, {"$entry": "nothing"}, {"$entry": []}, {"$entry": {"$entry": "fc.weight"}},
    {"$entry": "note"}, {"$entry": "random.torch"}, {"$tuple": [1]}, {"$tuple": 1}, {"$float": "inf"}, {"$float": "x"},
    {"$map": [[[], 1]]}, {"$map": [[1, 2]]}, {"$later": 1},
)  # fmt: skip
"""What a place in JSON may hold instead of what belongs there."""

TEXTS = (
    b"[" * 2000,
    b'{"a":' * 2000,
    b"1e999",
    b"-1e999",
    b"9" * 400,
    b"NaN",
    b'"\\ud800"',
    b"\xff",
    b"\0",
    b',"a":1,"a":2',
    b"[]," * 500,
)
"""What may stand between the bytes of a JSON text."""

GROUP = 3


@dataclass
class Profile:
    """A file of the profile, taken apart; `join` gives it new lengths, places and checksums.

    Args:
        front: Header and Values.
        metadata: The JSON text.
        index: The JSON text.
        footer: Numbers of the footer, by position, that are to be other than they should.
    """

    front: bytes
    metadata: bytes
    index: bytes
    footer: dict[int, int] = field(default_factory=dict)

    @classmethod
    def split(cls, content: bytes) -> Profile:
        """Take a sound file apart."""
        places = schema.FOOTER_FORMAT.unpack(content[len(schema.FOOTER_HEAD) - schema.FOOTER_NBYTES :])
        metadata, index = (content[begin : begin + length] for begin, length in (places[:2], places[3:5]))
        front = content[: places[0] - len(wire.bytes_head(schema.METADATA_FIELD, len(metadata)))]
        return cls(front, metadata, index)

    def join(self) -> bytes:
        """Put it together; what is wrong in it then is what was made wrong on purpose."""
        content, numbers = self.front, list[int]()
        for number, text in ((schema.METADATA_FIELD, self.metadata), (schema.INDEX_FIELD, self.index)):
            content += wire.bytes_head(number, len(text))
            numbers += [len(content), len(text), Checksum.of(text)]
            content += text
        numbers += [len(content) + schema.FOOTER_NBYTES, schema.PROFILE]
        for position, value in self.footer.items():
            numbers[position] = value % 2 ** (16 if position == 7 else 64)
        return content + schema.FOOTER_HEAD + schema.FOOTER_FORMAT.pack(*numbers, schema.MAGIC)

    def mend(self) -> Profile:
        """Give the index the checksums of the contents as they are now."""
        index = json.loads(self.index)
        for row in index["entries"]:
            places = zip(row[4][::2], row[4][1::2], strict=True)
            row[5] = f"{Checksum.of(b''.join(self.front[begin : begin + length] for begin, length in places)):016x}"
        self.index = dump(index)
        return self


def dump(value: object) -> bytes:
    """JSON as it should not be, too: Infinity becomes a number, halves of surrogate pairs become escapes."""
    return json.dumps(value, separators=(",", ":")).replace("Infinity", "1e999").encode()


def mutate(content: bytes, random: Random) -> bytes:
    """Return a changed copy of a sound file."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        content = _mutate_once(content, random)
    return content


def _mutate_once(content: bytes, random: Random) -> bytes:
    if random.random() < 0.2:
        return mutate_bytes(content, random)
    try:
        if content.startswith(schema.HEADER_HEAD + schema.MAGIC):
            return _mutate_profile(Profile.split(content), random).join()
        return _mutate_plain(content, random)
    except Exception:  # the second change of a file that is broken already, so that it cannot be taken apart
        return mutate_bytes(content, random)


def mutate_bytes(content: bytes, random: Random) -> bytes:
    """Change bytes without a thought for what they mean."""
    changed = bytearray(content or b"\0")
    begin, other = random.randrange(len(changed)), random.randrange(len(changed))
    length = min(random.choice((1, 1, 2, 4, 8, 64, 1000)), len(changed) - begin)
    match random.randrange(7):
        case 0:
            changed[begin] ^= 1 << random.randrange(8)
        case 1:
            changed[begin : begin + length] = random.randbytes(length)
        case 2:
            del changed[begin : begin + length]
        case 3:
            changed[other:other] = changed[begin : begin + length]
        case 4:
            changed[begin : begin + 8] = (random.choice(NUMBERS) % 2**64).to_bytes(8, "little")
        case 5:
            changed[begin:begin] = wire.encode_varint(random.choice(NUMBERS))
        case _:
            del changed[begin:]
    return bytes(changed)


def _mutate_profile(file: Profile, random: Random) -> Profile:
    match random.choice(("metadata", "metadata", "metadata", "index", "index", "index", "text", "footer", "front")):
        case "metadata":
            file.metadata = dump(_mutate_json(json.loads(file.metadata), random))
        case "index":
            file.index = dump(_mutate_json(json.loads(file.index), random))
        case "text" if random.random() < 0.5:
            file.metadata = _mutate_text(file.metadata, random)
        case "text":
            file.index = _mutate_text(file.index, random)
        case "footer":
            file.footer[random.randrange(8)] = random.choice((*NUMBERS, random.randrange(len(file.front) + 100)))
        case _:
            file.front = mutate_bytes(file.front, random)
            if random.random() < 0.8:
                file.mend()
    return file


def _mutate_text(text: bytes, random: Random) -> bytes:
    if random.random() < 0.5:
        return mutate_bytes(text, random)
    place = random.randrange(len(text) + 1)
    return text[:place] + random.choice(TEXTS) + text[place:]


def _mutate_json(value: Any, random: Random) -> Any:
    """Change one place of a tree, anywhere in it."""
    places = [(None, None), *_places(value)]
    where, key = random.choice(places)
    match random.randrange(6):
        case 0 | 1 | 2:
            new = copy.deepcopy(random.choice(VALUES))
        case 3:  # a part of the tree in another place of it
            other, other_key = random.choice(places)
            new = copy.deepcopy(value if other is None else other[other_key])
        case 4:
            new = random.choice(NUMBERS) * random.choice((1, 1, -1))
        case _:
            if isinstance(where, list):
                where.insert(random.randrange(len(where) + 1), copy.deepcopy(where[key]))
            elif where is not None:
                moved = where.pop(key)
                if random.random() < 0.5:
                    where[random.choice(("", "$entry", "$map", "params", "w", "\ud800", key + "x"))] = moved
            return value
    if where is None:
        return new if random.random() < 0.1 else value
    where[key] = new
    return value


def _places(value: Any) -> list[tuple[Any, Any]]:
    found = []
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in keys:
        found.append((value, key))
        found += _places(value[key])
    return found


# A plain file is a tree of fields: [number, wire type, content], a content being a number, bytes, or a tree.
Tree = list[list[Any]]
_INSIDE = {(): {schema.CHECKPOINT_VALUE}, (schema.CHECKPOINT_VALUE,): {schema.VALUE_TENSOR}}


class _Bytes:
    """Bytes as the source of a window."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.nbytes = len(content)

    def read(self, offset: int, length: int) -> bytes:
        return self.content[offset : offset + length]


def _tree(content: bytes, path: tuple[int, ...] = ()) -> Tree:
    window = wire.Window(_Bytes(content), "fuzz", len(content))
    found: Tree = []
    for at in wire.fields(window, 0, len(content)):
        inside: Any = at.value if at.wire_type == wire.VARINT else content[at.offset : at.end]
        if at.wire_type == wire.BYTES and at.number in _INSIDE.get(path, ()):
            inside = _tree(inside, (*path, at.number))
        found.append([at.number, at.wire_type, inside])
    return found


def _encode(tree: Tree, random: Random, lie: list[Any] | None) -> bytes:
    """The fields' bytes; for the field that is `lie`, with a length or a number that is none of its own."""
    content = b""
    for each in tree:
        number, wire_type, inside = each
        key = wire.encode_varint(number << 3 | wire_type)
        if each is lie and random.random() < 0.2:
            key = key[:-1] + bytes([key[-1] | 0x80, 0])  # longer than need be
        if isinstance(inside, int):
            content += key + wire.encode_varint(inside)
            continue
        inside = _encode(inside, random, lie) if isinstance(inside, list) else inside
        length = random.choice((*NUMBERS, len(inside) + 1, max(0, len(inside) - 1))) if each is lie else len(inside)
        content += key + (wire.encode_varint(length) if wire_type == wire.BYTES else b"") + inside
    return content


def _mutate_plain(content: bytes, random: Random) -> bytes:
    tail = content[-CRC_NBYTES:] if content[-CRC_NBYTES:].startswith(CRC_MAGIC) else b""
    tree = _tree(content[: len(content) - len(tail)])
    siblings, each = random.choice(list(_fields(tree)))
    lie = None
    match random.randrange(8):
        case 0:
            lie = each
        case 1:
            siblings.remove(each)
        case 2:
            siblings.insert(random.randrange(len(siblings) + 1), copy.deepcopy(each))
        case 3:
            siblings[siblings.index(each)] = copy.deepcopy(random.choice(list(_fields(tree)))[1])
        case 4:
            each[0] = random.choice((1, 2, 3, 4, 15, 16, 1000, 1001, 1002, 1003, 2**29 - 1))
        case 5:
            each[1] = random.choice((0, 1, 2, GROUP, 4, 5, 6))
        case 6 if random.random() < 0.1:
            siblings.extend([each] * random.choice((100, 3000)))
        case 6:
            siblings.append([1, wire.VARINT, random.choice(NUMBERS)])
        case _ if isinstance(each[2], int):
            each[2] = random.choice(NUMBERS)
        case _ if isinstance(each[2], bytes):
            each[2] = mutate_bytes(each[2], random)
    content = _encode(tree, random, lie)
    return content + (CRC_MAGIC + zlib.crc32(content).to_bytes(10, "big") if tail else b"")


def _fields(tree: Tree) -> list[tuple[Tree, list[Any]]]:
    found = []
    for each in tree:
        found.append((tree, each))
        if isinstance(each[2], list):
            found += _fields(each[2])
    return found
