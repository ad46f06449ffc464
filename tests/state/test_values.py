"""State that is not tensors, through JSON and back."""

from __future__ import annotations

import enum
import math
from collections import Counter, OrderedDict, defaultdict, namedtuple
from contextlib import suppress

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, from_dtype

from milepost.errors import UnsupportedStateError
from milepost.format.strict_json import decode, encode
from milepost.state.values import pack, unpack

SCALARS = [np.bool_, np.float16, np.float32, np.float64]
SCALARS += [np.int8, np.int16, np.int32, np.int64, np.uint8, np.uint16, np.uint32, np.uint64]
scalars = st.sampled_from(SCALARS).flatmap(lambda kind: from_dtype(np.dtype(kind), allow_nan=False))
FACTORIES = [dict, list, set, int, float, bool, str]
hashable = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | scalars
    | st.sampled_from([torch.float32, torch.bool, torch.device("cpu"), torch.device("cuda:1")])
    | st.lists(st.integers(0, 9)).map(torch.Size)
)  # fmt: skip
keys = hashable | st.tuples(hashable, hashable)
arrays_and_tensors = st.sampled_from(SCALARS).flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, min_side=0)))
arrays_and_tensors |= arrays_and_tensors.map(torch.from_numpy)
trees = st.recursive(
    hashable | st.sets(keys) | st.frozensets(keys) | st.builds(Counter, st.lists(keys)),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(keys, inner)
        | st.dictionaries(keys, inner).map(OrderedDict)
        | st.builds(
            defaultdict, st.sampled_from([dict, list, set, int, float, bool, str]), st.dictionaries(keys, inner)
        )
    ),
    max_leaves=20,
)


def there_and_back(value):
    kept = {}

    def keep(name, tensor):
        assert name not in kept
        kept[name] = tensor.clone()

    return unpack(decode(encode(pack(value, "here", keep), "metadata")), kept.__getitem__)


def same(a, b) -> bool:
    """Equality that tells 1 from True and 1.0, a tuple from a list, and 0.0 from -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return (
            getattr(a, "default_factory", None) == getattr(b, "default_factory", None)
            and len(a) == len(b)
            and all(same(*pair) for pair in zip(a, b, strict=True))
            and all(same(*pair) for pair in zip(a.values(), b.values(), strict=True))
        )
    if isinstance(a, (set, frozenset)):
        return a == b and Counter(map(type, a)) == Counter(map(type, b))
    if isinstance(a, torch.Tensor):
        a, b = a.numpy(), b.numpy()
    if isinstance(a, np.ndarray):
        return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())
    return a == b and (a != 0 or str(a) == str(b))


@given(trees)
def test_a_tree_comes_back_with_its_types(tree):
    """Tuples stay tuples, integer keys stay integers, infinities stay infinite, counters count on."""
    assert same(there_and_back(tree), tree)


@given(arrays_and_tensors)
def test_an_array_comes_back_to_the_bit(array):
    """Of every dtype and shape, as what it was: NumPy's or torch's; also where NaN has a payload."""
    assert same(there_and_back({"a": [array]}), {"a": [array]})


@pytest.mark.parametrize(
    "array",
    [np.arange(6)[::-1], np.broadcast_to(np.float32(1), 3), np.asfortranarray(np.eye(2)), np.ones((2, 0))],
    ids=["reversed", "read-only", "Fortran", "empty"],
)
def test_an_array_of_any_layout_comes_back(array):
    """What counts is its elements."""
    assert same(there_and_back(array), array)


def test_the_attributes_of_an_ordered_dict_come_back():
    """A module's state_dict tells in one of them which versions its parts have."""
    state = torch.nn.BatchNorm1d(2).state_dict()
    assert there_and_back(state)._metadata == state._metadata


def test_a_set_has_one_form():
    """The order in which a set gives its texts changes from process to process; a checkpoint does not."""
    assert pack({"b", "a", "c"}, "here", {}.__setitem__) == {"$set": ["a", "b", "c"]}


def test_nan_comes_back():
    """JSON has no NaN; the state of a diverged training does."""
    assert math.isnan(there_and_back({"loss": float("nan")})["loss"])


def test_tensors_become_entries_named_by_their_path():
    """The JSON refers to tensors, it does not hold them."""
    kept = {}
    tensor = torch.ones(2)
    packed = pack({"a": [0, {"b": tensor}]}, "optimizer.w", kept.__setitem__)
    assert packed == {"a": [0, {"b": {"$entry": "optimizer.w.a.1.b"}}]}
    assert kept == {"optimizer.w.a.1.b": tensor}


def test_numpy_numbers_stay_what_they_are():
    """A float32 times a Python number is a float32: as a Python number it would go another way."""
    values = [np.float64(0.5), np.float32(0.1), np.int32(3), np.bool_(True), np.float64("inf")]
    assert same(there_and_back(values), values)


class Level(enum.IntEnum):
    LOW = 1


Point = namedtuple("Point", "x y")
CIRCLE: list[object] = []
CIRCLE.append(CIRCLE)
REFUSED = {
    "object": object(),
    "complex": 1j,
    "builtin_function_or_method": print,
    "Level": Level.LOW,
    "Point": Point(1, 2),
    "defaultdict": defaultdict(lambda: 1),
    "str_": np.str_("a"),
    "bytearray": bytearray(1),
    "datetime64": np.datetime64("2020-01-01"),
    "MaskedArray": np.ma.array([1]),
    "array of dtype.'O'": np.array([None]),
    "array of dtype.'>f4'": np.ones(2, ">f4"),
    "array of dtype.'<U1'": np.array(["a"]),
}


@pytest.mark.parametrize("found", REFUSED)
def test_what_cannot_be_stored_is_refused_with_its_path(found):
    """At the save, with the place: never dropped, never turned into something similar, never at the resume."""
    with pytest.raises(UnsupportedStateError, match=rf"^scheduler\.inner\.0: found a .*{found}"):
        pack({"inner": [REFUSED[found]]}, "scheduler", {}.__setitem__)


def test_a_key_that_cannot_be_stored_is_refused():
    """Keys are values too."""
    with pytest.raises(UnsupportedStateError, match=r"^scheduler\.inner: found a .*Level"):
        pack({"inner": {Level.LOW: 1}}, "scheduler", {}.__setitem__)


def test_a_circle_is_refused():
    """And not followed until Python gives up."""
    with pytest.raises(UnsupportedStateError, match=r"^here\.0\.0.*found nesting deeper than 100 levels"):
        pack(CIRCLE, "here", {}.__setitem__)


@pytest.mark.parametrize(
    "packed",
    [
        {"$unknown": 1},
        {"$dtype": "load"},
        {"$device": "nowhere"},
        {"$device": 1},
        {"$scalar": ["int64", {"$int": hex(2**70)}]},
        {"$scalar": ["object", 1]},
        {"$scalar": ["int8", [1]]},
        {"$bytes": "?"},
        {"$int": "z"},
        {"$set": [[1]]},
        {"$counter": [1]},
        {"$size": ["a"]},
        {"$ordered": []},
        {"$array": "missing"},
        {"$defaultdict": ["eval", []]},
    ],
    ids=str,
)
def test_what_pack_does_not_write_is_refused(packed):
    """With the errors that the reader of a checkpoint tells as damage."""
    with pytest.raises((ValueError, TypeError, LookupError)):
        unpack(packed, {}.__getitem__)


TAGS = [
    "entry",
    "array",
    "float",
    "int",
    "bytes",
    "map",
    "ordered",
    "scalar",
    "dtype",
    "device",
    "tuple",
    "size",
    "set",
    "frozenset",
    "counter",
    "defaultdict",
]
lies = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(st.sampled_from(["int8", "uint64", "float16", "bool", "list"]), inner).map(list)
        | st.dictionaries(st.sampled_from(TAGS), inner, min_size=1, max_size=1)
    ),
)


@given(lies)
def test_nothing_that_a_file_can_say_breaks_out(packed):
    """It is a value, or one of the errors that the reader of a checkpoint tells as damage."""
    with suppress(AttributeError, LookupError, TypeError, ValueError):
        unpack(packed, {"": torch.ones(1, dtype=torch.bfloat16), "0": torch.ones(2)}.__getitem__)
