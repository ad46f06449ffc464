"""Files of other kinds that are called .ckpt: refused at once, told what they are, and nothing in them runs."""

from __future__ import annotations

import gzip
import io
import os
import pickle
import socket
import struct
import time
import zipfile

import pytest
import torch

from milepost.checkpoint.loading import load_checkpoint
from milepost.errors import MilepostError, NotACheckpointError, ReadError
from milepost.format import schema
from milepost.format.wire import bytes_head

SECONDS = 0.5
GIB = 1 << 30


class Trap:
    """What a pickle can do: here it would make a folder."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def torch_file(tmp_path, *, zipped):
    file = io.BytesIO()
    trap = Trap(tmp_path / "marker")
    torch.save({"w": torch.ones(3), "trap": trap}, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def zip_bomb(_):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(64 << 20))
    return file.getvalue()


def onnx_model(_):
    onnx = pytest.importorskip("onnx")
    graph = onnx.helper.make_graph([], "graph", [], [])
    return onnx.helper.make_model(graph).SerializeToString()


def safetensors_file(_):
    head = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    return struct.pack("<Q", len(head)) + head + bytes(5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        pytest.param(lambda path: pickle.dumps(Trap(path / "marker")), "torch.load", id="pickle"),
        pytest.param(lambda path: pickle.dumps(Trap(path / "marker"), protocol=0), "begins with", id="pickle as text"),
        pytest.param(lambda path: torch_file(path, zipped=True), "not plain data.*mkdir", id="torch.save"),
        pytest.param(lambda path: torch_file(path, zipped=False), "not plain data.*mkdir", id="torch.save of old"),
        pytest.param(zip_bomb, "data.pkl", id="zip bomb"),
        pytest.param(lambda _: gzip.compress(bytes(1 << 20)), "gzip", id="gzip"),
        pytest.param(safetensors_file, "the end of the contents", id="safetensors with bytes behind"),
        pytest.param(onnx_model, "ONNX", id="ONNX"),
        pytest.param(lambda _: b"", "an empty file", id="empty"),
        pytest.param(lambda _: b"epoch,loss\n1,0.5\n", "begins with", id="text"),
        pytest.param(lambda _: b'{"epoch": 1}', "weight_map", id="JSON"),
        pytest.param(lambda _: b"\x89HDF\r\n\x1a\n" + bytes(100), "HDF5", id="HDF5"),
        pytest.param(lambda _: b"\x93NUMPY\x01\x00", "NumPy", id="NumPy"),
        pytest.param(lambda _: b"GGUF\x03\0\0\0", "GGUF", id="GGUF"),
        pytest.param(lambda _: bytes(4096), "begins with", id="zeros"),
        pytest.param(lambda _: b"\n" * 4096, "damaged|begins with|byte", id="line ends"),
    ],
)
def test_a_file_of_another_kind_is_named_at_once_and_nothing_in_it_runs(make, says, tmp_path):
    """Its name does not make it a checkpoint."""
    path = tmp_path / "a.ckpt"
    path.write_bytes(make(tmp_path))
    begin = time.perf_counter()
    with pytest.raises(MilepostError, match=says) as caught:
        load_checkpoint(path)
    assert time.perf_counter() - begin < SECONDS
    assert str(path) in str(caught.value)
    assert caught.value.remedy
    assert not (tmp_path / "marker").exists()


def test_a_pickle_has_the_power_that_the_trap_needs(tmp_path):
    """Else the tests above would show nothing."""
    pickle.loads(pickle.dumps(Trap(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


def folder(path):
    path.mkdir()


def device(path):
    path.symlink_to("/dev/zero")


def unix_socket(path):
    # The path of a socket is limited to some hundred bytes, so it is bound where it is short.
    here = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(path.name)
    finally:
        os.chdir(here)


def link_to_itself(path):
    path.symlink_to(path.name)


def links_in_a_circle(path):
    path.symlink_to("b.ckpt")
    (path.parent / "b.ckpt").symlink_to(path.name)


def long_chain_of_links(path):
    for number in range(60):
        (path.parent / f"{number}").symlink_to(f"{number + 1}")
    path.symlink_to("0")


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (folder, NotACheckpointError),
        (os.mkfifo, NotACheckpointError),
        (device, NotACheckpointError),
        (unix_socket, (NotACheckpointError, ReadError)),
        (link_to_itself, ReadError),
        (links_in_a_circle, ReadError),
        (long_chain_of_links, ReadError),
    ],
)
def test_what_is_no_regular_file_is_refused_at_once(make, kind, tmp_path):
    """Nothing is waited for, and nothing read."""
    path = tmp_path / "a.ckpt"
    make(path)
    begin = time.perf_counter()
    with pytest.raises(kind, match=r"a\.ckpt"):
        load_checkpoint(path)
    assert time.perf_counter() - begin < SECONDS


def holes(path, *, begins=b"", ends=b"", nbytes=3 * GIB):
    """A file that is large and takes no room."""
    with path.open("wb") as file:
        file.write(begins)
        file.truncate(nbytes - len(ends))
        file.seek(0, os.SEEK_END)
        file.write(ends)


HEADER = schema.HEADER_HEAD + schema.HEADER_FORMAT.pack(schema.MAGIC, schema.PROFILE)


def footer(*places, nbytes=3 * GIB):
    return schema.FOOTER_HEAD + schema.FOOTER_FORMAT.pack(*places, nbytes, schema.PROFILE, schema.MAGIC)


@pytest.mark.parametrize(
    ("begins", "ends"),
    [
        pytest.param(b"", b"", id="nothing but a hole"),
        pytest.param(HEADER, b"", id="header"),
        pytest.param(b"", footer(16, 2, 0, 18, 2, 0), id="footer"),
        pytest.param(HEADER, footer(16, 3 * GIB - 88, 0, 18, 2, 0), id="metadata of 3 GB"),
        pytest.param(HEADER, footer(16, 2, 0, 18, 3 * GIB - 90, 0), id="index of 3 GB"),
        pytest.param(bytes_head(1, 3 * GIB - 6) + bytes_head(1, 3 * GIB - 12), b"", id="tag of 3 GB"),
        pytest.param(b"", b"crc_num" + bytes(10), id="CRC"),
    ],
)
def test_a_large_file_of_holes_is_refused_as_fast_as_a_small_one(begins, ends, tmp_path):
    """What is not read costs nothing."""
    path = tmp_path / "a.ckpt"
    holes(path, begins=begins, ends=ends)
    begin = time.perf_counter()
    with pytest.raises(MilepostError, match=r"a\.ckpt"):
        load_checkpoint(path)
    assert time.perf_counter() - begin < SECONDS
