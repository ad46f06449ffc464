"""Files whose every checksum is right and whose contents lie: told, nothing changed, nothing invented."""

from __future__ import annotations

import json
import random
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from milepost.checkpoint.loading import load_checkpoint, load_param_into_net
from milepost.checkpoint.saving import save_checkpoint
from milepost.errors import MilepostError
from milepost.format.wire import encode_varint as varint
from milepost.manager import CheckpointManager

NOTHING = {"$entry": "nothing"}
ITSELF = {"$entry": {"$entry": "fc.weight"}}


def put(value, *path):
    """A change of the metadata: another value at a path."""

    def change(metadata):
        place = metadata
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value

    return pytest.param(change, id=f"{'.'.join(map(str, path))} = {value!r:.40}")


STATE = ("state", "optimizer")
CHANGES = [
    *[put(value, "state") for value in (None, 5, [], "x", [[]])],
    *[put(value, *STATE) for value in (5, [], "x", {}, {"class": "Adam"})],
    *[put(value, *STATE, "class") for value in (5, None, [], "SGD", "os.system")],
    *[put(value, *STATE, "groups") for value in (None, 5, {}, [], [5], [{}], "x")],
    *[put(value, *STATE, "groups", 0, "params") for value in (None, 5, {}, [], [5], ["fc.weight"] * 4, [[]], "x")],
    *[
        put(value, *STATE, "groups", 0, "options")
        for value in (None, 5, [], "x", {"params": []}, {"params": 5}, NOTHING)
    ],
    *[put(value, *STATE, "parameters") for value in (None, 5, {}, [], "x")],
    *[put(value, *STATE, "parameters", "fc.weight") for value in (None, 5, [], ["torch.float32", [2**62]])],
    *[put(value, *STATE, "state") for value in (None, 5, [], "x")],
    *[
        put(value, *STATE, "state", "fc.weight")
        for value in (5, [5], "x", {"$tuple": 1}, {"exp_avg": 1}, {"step": "x"})
    ],
    *[
        put(value, *STATE, "state", "fc.weight", "step")
        for value in (None, "x", [], NOTHING, ITSELF, {"$entry": "note"})
    ],
    *[
        put(value, *STATE, "state", "fc.weight", "exp_avg")
        for value in (NOTHING, ITSELF, {"$entry": []}, {"$later": 1})
    ],
    *[
        put(value, *STATE, "state", "fc.weight", "exp_avg")
        for value in ({"$float": "x"}, {"$map": 1}, {"$map": [[[], 1]]})
    ],
    *[put(value, *STATE, "common") for value in (5, [5], "x", NOTHING)],
    *[put(value, "state", "extra") for value in (5, [], "x", {"_extra_state": NOTHING}, {"_extra_state": ITSELF})],
]


def forge(content, profile, dump, change):
    file = profile.split(content)
    metadata = json.loads(file.metadata)
    change(metadata)
    file.metadata = dump(metadata)
    return file.join()


def as_is(net, optimizer):
    return plain([[tensor.detach() for tensor in [*net.parameters(), *net.buffers()]], optimizer.state_dict()])


def plain(value):
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def fill(net):
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(3)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:.*were not loaded")
@pytest.mark.filterwarnings("ignore:passed over")
def test_a_state_that_lies_is_refused_or_fits_and_never_half_of_it(change, small, profile, dump, trained, tmp_path):
    """By hand into the network and into the optimizer, and by a resume of both."""
    net, optimizer = trained
    fill(net)
    path = tmp_path / "net-1_2.ckpt"
    path.write_bytes(forge(small, profile, dump, change))
    manager = CheckpointManager(tmp_path, net, optimizer, prefix="net")
    loads = [
        lambda: load_param_into_net(net, load_checkpoint(path)),
        lambda: load_param_into_net(optimizer, load_checkpoint(path)),
        lambda: load_checkpoint(path, filter_prefix="fc"),
        lambda: save_checkpoint(load_checkpoint(path), tmp_path / "again.ckpt"),
        lambda: manager.resume("must"),
        lambda: manager.resume(path),
    ]
    refused = 0
    for load in loads:
        before = as_is(net, optimizer)
        try:
            load()
        except MilepostError:
            refused += 1
            assert as_is(net, optimizer) == before
    assert refused


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (key, value)
        for key in ("epoch", "step", "global_step")
        for value in (None, "x", [], {}, -1, 2**63, 1e308, 0.5, True)
    ],
)
@pytest.mark.filterwarnings("ignore:passed over")
def test_a_resume_from_a_place_that_cannot_be_is_refused_or_a_place(
    key, value, small, profile, dump, trained, tmp_path
):
    """The network is as it was, or the training goes on from a whole number."""
    net, optimizer = trained
    fill(net)
    before = as_is(net, optimizer)
    (tmp_path / "net-1_2.ckpt").write_bytes(forge(small, profile, dump, lambda metadata: metadata.update({key: value})))
    try:
        resumed = CheckpointManager(tmp_path, net, optimizer, prefix="net").resume("must")
    except MilepostError:
        assert as_is(net, optimizer) == before
    else:
        assert all(isinstance(number, int) for number in (resumed.epoch, resumed.step, resumed.global_step))


# A value of an index, or of metadata: what belongs there, or anything.
NUMBERS = st.one_of(st.integers(-2, 200), st.sampled_from([64, 128, 192, 2**31, 2**62, 2**63 - 1, 2**63, 2**64]))
ANYTHING = st.recursive(
    st.none() | st.booleans() | NUMBERS | st.text(max_size=3), lambda inner: st.lists(inner, max_size=3)
)
NAMES = st.sampled_from(["a", "b", "c"]) | ANYTHING
ROWS = st.tuples(
    NAMES,
    st.sampled_from(["parameter", "random", "later"]) | ANYTHING,
    st.sampled_from(["uint8", "bool", "float64", "str", "bfloat16", "int4", "complex64"]) | ANYTHING,
    st.lists(NUMBERS, max_size=3) | ANYTHING,
    st.lists(NUMBERS, min_size=2, max_size=4) | ANYTHING,
    st.just("0" * 16) | ANYTHING,
)
ALIASES = st.dictionaries(st.text(max_size=2), NAMES, max_size=3)


@settings(max_examples=400, deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.lists(ROWS, max_size=3), aliases=ALIASES, mend=st.booleans())
def test_an_index_of_any_rows_is_refused_or_gives_the_bytes_of_the_file(
    rows, aliases, mend, small, profile, dump, try_file
):
    """`try_file` compares what is read with what is in the file, where the index says."""
    file = profile.split(small)
    file.index = dump({"entries": rows, "aliases": aliases})
    if mend:
        try:
            file.mend()
        except (TypeError, ValueError, AttributeError, OverflowError):  # rows that say no place
            return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try_file(file.join())


# A plain file: fields of any number and type, with lengths that may be right, within each other.
LENGTHS = st.sampled_from([None, None, None, None, 0, 1, 5, 2**31, 2**62, 2**63, 2**64 - 1])
KEYS = st.sampled_from(
    [(1, 2), (2, 2), (3, 2), (1, 0), (1, 3), (1, 4), (2, 5), (15, 2), (1000, 2), (1003, 2), (0, 2), (1, 7)]
)
LEAVES = st.sampled_from([b"", b"w", b"Int8", b"Bool", b"str", b"\xff", b"\0" * 8, b"\2", varint(2**63)]) | st.binary(
    max_size=12
)


@st.composite
def fields(draw, inner):
    number, wire_type = draw(KEYS)
    content = draw(inner)
    length = draw(LENGTHS)
    head = varint(len(content) if length is None else length) if wire_type == 2 else b""
    return varint(number << 3 | wire_type) + head + content


@st.composite
def records(draw):
    """A Value that is nearly right."""

    def run(number, content):
        return varint(number << 3 | 2) + varint(len(content)) + content

    content = draw(st.sampled_from([b"", b"\0", b"\1\2", bytes(8)]))
    dims = draw(st.lists(NUMBERS, max_size=3) | st.just([len(content)]))
    spelling = draw(st.sampled_from([b"Int8", b"Bool", b"Float64", b"str", b"Int4", b"later"]))
    tensor = b"".join(b"\x08" + varint(dim % 2**64) for dim in dims) + run(2, spelling) + run(3, content)
    return run(
        1, run(1, draw(st.sampled_from([b"a", b"b", b"c", b""]))) + run(2, tensor + draw(st.just(b"") | fields(LEAVES)))
    )


TREES = st.recursive(LEAVES, lambda inner: st.lists(fields(inner), max_size=3).map(b"".join), max_leaves=8)
FILES = st.lists(records() | fields(TREES), max_size=4).map(b"".join)


@settings(max_examples=600, deadline=2000)
@given(content=FILES)
def test_a_plain_file_of_any_fields_is_refused_or_gives_the_bytes_of_the_file(content, try_file):
    """Whatever protobuf's bytes can say."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try_file(content)


def test_no_random_number_is_drawn_by_a_load(small, tmp_path):
    """What a file says of random states is not taken until it is asked for."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(small)
    before = random.getstate(), torch.get_rng_state().tolist()
    with load_checkpoint(path) as parameters:
        list(parameters.values())
        parameters.state("random")
    assert (random.getstate(), torch.get_rng_state().tolist()) == before
