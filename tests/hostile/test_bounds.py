"""Time and memory of a load are bounded by the file's real size, whatever it says about itself."""

from __future__ import annotations

import json
import time

import pytest

from milepost.checkpoint.loading import load_checkpoint
from milepost.errors import DamagedCheckpointError
from milepost.format.ckpt_plan import plan
from milepost.format.collector import paused
from milepost.format.spec import Array, ArraySpec
from milepost.format.wire import encode_varint as varint

# A process that loads each file of a folder with so much more memory as the file has three times, and 64 MiB.
LOAD = """
import json, os, pathlib, resource, sys, time
import forge, fuzz_ckpt
from milepost.checkpoint.loading import load_checkpoint
from milepost.errors import MilepostError

def load(path):
    try:
        with load_checkpoint(path) as parameters:
            for name in parameters:
                parameters.peek(name)
            parameters.verify()
            parameters.state("random")
        return "read"
    except MilepostError as error:
        assert path.name in str(error)
        return type(error).__name__
    except MemoryError:
        return "too much memory"

load(pathlib.Path(sys.argv[2]))  # what is imported late is in memory now
done = {}
for path in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    pages = int(open("/proc/self/statm").read().split()[0])
    limit = pages * resource.getpagesize() + 3 * path.stat().st_size + (64 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    begin = time.process_time()
    outcome = load(path)
    resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    done[path.name] = [outcome, time.process_time() - begin]
print(json.dumps(done))
"""
CLAIMS = (10**10, 2**40, 2**62, 2**63, 2**64 - 1)


def field(number, content, *, claims=None):
    """A field that may claim another length than its content has."""
    return varint(number << 3 | 2) + varint(len(content) if claims is None else claims) + content


def value(tag, dims, content, *, claims=None):
    tensor = b"".join(b"\x08" + varint(dim % 2**64) for dim in dims) + field(2, b"Int8")
    return field(1, field(1, tag) + field(2, tensor + field(3, content, claims=claims)))


ONE = value(b"w", [1], b"a")


def plain_files():
    """Files without an index, by name."""
    for claims in CLAIMS:
        yield f"Value of {claims}", ONE + field(1, b"", claims=claims)
        yield f"tag of {claims}", ONE + field(1, field(1, b"", claims=claims))
        yield f"tensor of {claims}", ONE + field(1, field(1, b"v") + field(2, b"", claims=claims))
        yield f"content of {claims}", ONE + value(b"v", [claims], b"", claims=claims)
        yield f"dims of {claims}", ONE + field(1, field(1, b"v") + field(2, field(1, b"", claims=claims)))
        yield f"shape of {claims}", ONE + value(b"v", [claims] * 60, b"a")
        yield f"unknown field of {claims}", ONE + field(9, b"", claims=claims)
    yield "16 million dims", ONE + field(1, field(1, b"v") + field(2, field(1, bytes(16 << 20))))
    yield "strides beyond 64 bits", ONE + value(b"v", [2**62, 2**62, 0], b"")
    yield "tag of 16 MB", ONE + value(b"v" * (16 << 20), [1], b"a")
    yield "groups", ONE + b"\x0b" * (16 << 20)


def forged_files(small, profile, dump):
    """Files of the profile whose checksums are right, by name."""

    def forge(*, metadata=None, index=None, footer=None):
        file = profile.split(small)
        return profile(file.front, metadata or file.metadata, index or file.index, footer or {}).join()

    for claims in CLAIMS:
        for position in range(8):
            yield f"footer number {position} is {claims}", forge(footer={position: claims})
        row = ["w", "parameter", "int8", [claims], [64, claims], "0" * 16]
        yield f"entry of {claims}", forge(index=dump({"entries": [row], "aliases": {}}))
        rows = [[f"w{number}", "buffer", "int8", [claims, 0], [64, 0], "0" * 16] for number in range(1000)]
        yield f"empty entries of {claims}", forge(index=dump({"entries": rows, "aliases": {}}))
    yield "nested metadata", forge(metadata=b'{"state":' + b"[" * 500_000 + b"]" * 500_000 + b"}")
    yield "nested objects", forge(metadata=b'{"a":' * 100_000 + b"1" + b"}" * 100_000)
    yield "number of a million digits", forge(metadata=b'{"a":' + b"9" * 1_000_000 + b"}")
    yield "number too large", forge(metadata=b'{"a":1e999}')
    yield "one key a thousand times", forge(metadata=b'{"a":1' + b',"a":1' * 1000 + b"}")
    slices = [64, 0] * 200_000
    yield (
        "empty slices",
        forge(index=dump({"entries": [["w" * 9999, "", "int8", [0], slices, "0" * 16]], "aliases": {}})),
    )
    circle = {"a": "b", "b": "a"}
    yield "aliases in a circle", forge(index=dump({"entries": [], "aliases": circle}))


def test_claims_are_refused_in_milliseconds_by_a_process_that_could_not_hold_them(
    small, profile, dump, corpus, in_child, tmp_path
):
    """However much is claimed: a length, a shape, a place, a depth, a count."""
    files = dict([*plain_files(), *forged_files(small, profile, dump)])
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    done = in_child(LOAD, tmp_path, corpus / "small.ckpt")
    assert done.keys() == files.keys()
    assert {name: outcome for name, (outcome, _) in done.items() if outcome != "DamagedCheckpointError"} == {}
    assert max(seconds for _, seconds in done.values()) < 1


def referring(small, profile, dump, count):
    """A sound file whose metadata refers to one entry many times."""
    file = profile.split(small)
    state = [{"$entry": "fc.weight"}] * count
    return profile(file.front, dump({"state": {"random": state}}), file.index).join()


def test_a_state_cannot_refer_to_an_entry_so_often_that_memory_ends(small, profile, dump, tmp_path):
    """What is referred to is no more than what the file has: 24 bytes a hundred times, and then no more."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(referring(small, profile, dump, 100))
    with load_checkpoint(path) as parameters:
        assert len(parameters.state("random")) == 100
    path.write_bytes(big_entry(1 << 20, count=3))
    with load_checkpoint(path) as parameters, pytest.raises(DamagedCheckpointError, match=r"a\.ckpt.*references"):
        parameters.state("random")


def big_entry(nbytes, count):
    content = memoryview(bytes(nbytes))
    array = Array(ArraySpec("w", "uint8", (nbytes,)), "random", lambda: content)
    return b"".join(plan([array], {"state": {"random": [{"$entry": "w"}] * count}}).chunks())


def tiny_plain(count):
    return b"".join(value(b"%x" % number, [1], b"a") for number in range(count))


def tiny_ours(count):
    one = memoryview(b"a")
    arrays = [Array(ArraySpec(f"{number:x}", "int8", (1,)), "parameter", lambda: one) for number in range(count)]
    return b"".join(plan(arrays, {}).chunks())


def slices_of_one(count):
    return value(b"w", [count], b"a") * count


@pytest.mark.parametrize("make", [tiny_plain, tiny_ours, slices_of_one])
def test_tiny_entries_take_linear_time(make, tmp_path):
    """Eight times as many take about eight times as long, not sixty-four."""
    path = tmp_path / "a.ckpt"

    def seconds(count):
        path.write_bytes(make(count))
        # What the collector of garbage takes depends on what the tests before this one have left.
        with paused():
            begin = time.process_time()
            with load_checkpoint(path) as parameters:
                parameters.verify()
            return time.process_time() - begin

    assert min(seconds(32_000) for _ in range(3)) < 24 * max(seconds(4_000) for _ in range(3))


@pytest.mark.slow
@pytest.mark.parametrize("make", [tiny_plain, tiny_ours])
def test_a_million_tiny_entries_are_read(make, in_child, corpus, tmp_path):
    """In some seconds, and in memory that is no more than a kilobyte for each."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(make(1_000_000))
    code = """
import json, sys, time
from fuzz_ckpt import largest_kib
from milepost.checkpoint.loading import load_checkpoint
load_checkpoint(sys.argv[2])
before_kib, begin = largest_kib(), time.process_time()
with load_checkpoint(sys.argv[1]) as parameters:
    opened = time.process_time() - begin
    parameters.verify()
    count = len(parameters)
grown_kib = largest_kib() - before_kib
print(json.dumps([count, opened, time.process_time() - begin, grown_kib / 1024]))
"""
    count, opened_seconds, seconds, grown_mib = in_child(code, path, corpus / "small.ckpt")
    print(json.dumps({"nbytes": path.stat().st_size, "opened": opened_seconds, "verified": seconds, "mib": grown_mib}))
    assert count == 1_000_000
    assert seconds < 60
    assert grown_mib < 1500
