"""Real bytes of IDX files, sound and damaged; the data sets made of them, and the one that scikit-learn ships."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import digits

CODES = {"u1": 0x08, "i1": 0x09, "i2": 0x0B, "i4": 0x0C, "f4": 0x0D, "f8": 0x0E}


def idx(array: np.ndarray) -> bytes:
    """The IDX bytes of an array, by the format's description and not by the reader's code."""
    header = struct.pack(f">HBB{array.ndim}I", 0, CODES[array.dtype.str[1:]], array.ndim, *array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


ONE_IMAGE = idx(np.arange(6, dtype=np.uint8).reshape(1, 2, 3))
GZIPPED = gzip.compress(ONE_IMAGE, mtime=0)


def header(code: int, *shape: int) -> bytes:
    return struct.pack(f">HBB{len(shape)}I", 0, code, len(shape), *shape)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("idx")


@given(
    array=st.sampled_from(list(CODES)).flatmap(
        lambda code: hnp.arrays(code, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))
    ),
    is_gzipped=st.booleans(),
)
def test_what_was_written_is_read(folder, array, is_gzipped):
    """Every type of the format, of every shape, comes back bit for bit, in the machine's byte order."""
    path = folder / "array"
    path.write_bytes(gzip.compress(idx(array)) if is_gzipped else idx(array))
    read = digits.read_idx(path)
    assert (read.dtype, read.shape, read.tobytes()) == (array.dtype, array.shape, array.tobytes())
    assert read.dtype.isnative


@pytest.mark.parametrize("name", ["images.gz", "images"])
@pytest.mark.parametrize("content", [ONE_IMAGE, GZIPPED], ids=["plain", "gzipped"])
def test_the_content_tells_whether_a_file_is_gzipped(tmp_path, name, content):
    """Some downloaders unpack a file and leave it its .gz, others the other way round."""
    (tmp_path / name).write_bytes(content)
    assert digits.read_idx(tmp_path / name).tolist() == [[[0, 1, 2], [3, 4, 5]]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"", "found 0 bytes; expected the magic number, 4 bytes", id="empty"),
        pytest.param(b"\0\0\x08", "found 3 bytes; expected the magic number, 4 bytes", id="cut in the magic"),
        pytest.param(b"<!DOCTYPE html>", "found the magic number 3c21444f; expected 0000, then", id="a web page"),
        pytest.param(header(0x0A, 1) + b"\0", "found the magic number 00000a01", id="unknown type"),
        pytest.param(header(0x08, *[1] * 33) + b"\0", "found the magic number 00000821", id="33 dimensions"),
        pytest.param(header(0x08, 1, 2)[:9], "found 5 bytes; expected 2 dimensions, 8 bytes", id="cut in the shape"),
        pytest.param(ONE_IMAGE[:-1], r"found 5 bytes; expected elements of the shape \(1, 2, 3\), 6", id="cut"),
        pytest.param(ONE_IMAGE + b"\0", "found more bytes after the last element", id="a byte too many"),
        pytest.param(header(0x0E, *[2**32 - 1] * 4), r"found 0 bytes; expected elements", id="absurd shape"),
        pytest.param(header(0x0E, 0, *[2**32 - 1] * 4), "one that NumPy can hold", id="absurd shape of nothing"),
        pytest.param(GZIPPED[:-1], "found damaged gzip data", id="gzip cut in its end"),
        pytest.param(GZIPPED[:15], "found damaged gzip data", id="gzip cut in its content"),
        pytest.param(GZIPPED[:10] + b"\xff" * 20, "found damaged gzip data", id="gzip with bad content"),
        pytest.param(GZIPPED[:-8] + b"\0" * 8, "found damaged gzip data", id="gzip with a wrong checksum"),
        pytest.param(gzip.compress(ONE_IMAGE + b"\0"), "found more bytes after", id="gzip with a byte too many"),
        pytest.param(GZIPPED + b"junk", "found damaged gzip data", id="gzip with bytes after it"),
    ],
)
def test_a_file_that_is_not_sound_is_refused(tmp_path, content, message):
    """The message names the file, what was found, what was expected, and what to do."""
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(content)
    with pytest.raises(digits.IdxError, match=message) as caught:
        digits.read_idx(path)
    assert str(caught.value).startswith(f"{path}: found ")
    assert str(caught.value).endswith(".")


def test_a_file_that_is_not_there_is_no_damage(tmp_path):
    """The builtin error stays what it is."""
    with pytest.raises(FileNotFoundError):
        digits.read_idx(tmp_path / "absent")


def write_mnist(folder: Path, names: dict[str, bytes]) -> None:
    for name, content in names.items():
        (folder / name).write_bytes(content)


def small_mnist(mark: str = "-", end: str = "") -> dict[str, bytes]:
    """Three images for training, of one brightness each, and two for the test."""
    pack = gzip.compress if end else bytes
    arrays = {
        f"train-images{mark}idx3-ubyte{end}": np.full((3, 28, 28), [[[10]], [[20]], [[30]]], np.uint8),
        f"train-labels{mark}idx1-ubyte{end}": np.array([7, 1, 3], np.uint8),
        f"t10k-images{mark}idx3-ubyte{end}": np.full((2, 28, 28), 40, np.uint8),
        f"t10k-labels{mark}idx1-ubyte{end}": np.array([0, 9], np.uint8),
    }
    return {name: pack(idx(array)) for name, array in arrays.items()}


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("mark", ["-", "."])
def test_mnist_is_read_under_its_usual_names(tmp_path, mark, end):
    """Images get a border of background to 32x32; labels stay with their images."""
    write_mnist(tmp_path, small_mnist(mark, end))
    train, test = digits.load_mnist(tmp_path)
    assert train.images.shape == (3, 1, 32, 32)
    assert test.images.shape == (2, 1, 32, 32)
    assert (train.labels.tolist(), test.labels.tolist()) == ([7, 1, 3], [0, 9])
    assert train.labels.dtype == torch.int64
    inside = torch.zeros(32, 32, dtype=torch.bool)
    inside[2:30, 2:30] = True
    for image, brightness in zip(train.images[:, 0], [10, 20, 30], strict=True):
        assert image[inside].unique().numel() == 1
        assert image[~inside].unique().numel() == 1
        ratio = (image[16, 16] - image[0, 0]) / (train.images[0, 0, 16, 16] - train.images[0, 0, 0, 0])
        assert ratio.item() == pytest.approx(brightness / 10)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        ("train-labels-idx1-ubyte", np.zeros(2, np.uint8), "2 labels; expected one for each of the 3 images"),
        ("t10k-labels-idx1-ubyte", np.zeros(5, np.uint8), "5 labels; expected one for each of the 2 images"),
        ("train-labels-idx1-ubyte", np.array([1, 2, 10], np.uint8), "at most 10; expected labels from 0 to 9"),
        ("train-labels-idx1-ubyte", np.zeros((3, 1), np.uint8), r"shape \(3, 1\), .*; expected labels"),
        ("train-labels-idx1-ubyte", np.zeros(3, np.int32), "found int32 .*; expected labels"),
        ("train-images-idx3-ubyte", np.zeros((3, 28), np.uint8), r"shape \(3, 28\), .*; expected images of bytes"),
        ("train-images-idx3-ubyte", np.zeros((3, 28, 28), np.float32), "found float32 .*; expected images of bytes"),
        ("train-images-idx3-ubyte", np.zeros((3, 33, 28), np.uint8), "expected images of bytes, at most 32x32"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(tmp_path, name, array, message):
    """Sound IDX files that are not a data set of images and labels name the file at fault."""
    write_mnist(tmp_path, {**small_mnist(), name: idx(array)})
    with pytest.raises(digits.IdxError, match=message) as caught:
        digits.load_mnist(tmp_path)
    assert str(tmp_path / name) in str(caught.value)


def test_a_missing_file_of_mnist_is_named_with_all_its_spellings(tmp_path):
    """Whoever has three of four files learns which one to get."""
    write_mnist(tmp_path, small_mnist())
    (tmp_path / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(FileNotFoundError, match=r"t10k-labels-idx1-ubyte, .*t10k-labels\.idx1-ubyte\.gz"):
        digits.load_mnist(tmp_path)


@pytest.fixture(scope="module")
def sklearn_digits():
    return digits.load_sklearn_digits()


def test_the_digits_of_scikit_learn_are_split_evenly_and_always_alike(sklearn_digits):
    """1,437 and 360 images without overlap, each class with the same share in both, the same ones at every call."""
    train, test = sklearn_digits
    assert train.images.shape == (1437, 1, 32, 32)
    assert test.images.shape == (360, 1, 32, 32)
    assert (train.images.dtype, train.labels.dtype) == (torch.float32, torch.int64)
    shares = [torch.bincount(part.labels, minlength=10) / len(part.labels) for part in (train, test)]
    assert torch.allclose(shares[0], shares[1], atol=0.003)
    for first, second in zip(sklearn_digits, digits.load_sklearn_digits(), strict=True):
        assert torch.equal(first.images, second.images)
        assert torch.equal(first.labels, second.labels)


def test_images_are_normalised_by_the_training_alone(sklearn_digits):
    """The training's pixels have mean 0 and deviation 1; the test's nearly so, since it had no say."""
    train, test = sklearn_digits
    assert train.images.mean().item() == pytest.approx(0, abs=1e-4)
    assert train.images.std().item() == pytest.approx(1, abs=1e-4)
    assert test.images.mean().item() != pytest.approx(0, abs=1e-4)


def test_training_batches_are_shuffled_anew_each_epoch_and_alike_for_one_seed():
    """The order depends on the seed and the epoch, not on what else draws random numbers."""

    def two_epochs(seed: int) -> list[list[int]]:
        torch.rand(3)
        dataset = digits.create_dataset(None, 32, train=True, seed=seed)
        return [torch.cat([labels for _, labels in dataset]).tolist() for _ in range(2)]

    first, again, other = two_epochs(1), two_epochs(1), two_epochs(2)
    assert first == again
    assert first[0] != first[1]
    assert first != other


def test_training_leaves_out_an_incomplete_batch_and_the_test_leaves_out_nothing():
    """Batch normalisation cannot train on one image; an accuracy is that of every image."""
    train = digits.create_dataset(None, 32, train=True)
    test = digits.create_dataset(None, 32, train=False)
    assert len(train) == 1437 // 32
    assert {len(labels) for _, labels in train} == {32}
    assert sum(len(labels) for _, labels in test) == 360


def test_classes_are_chosen_and_numbered_from_0(tmp_path):
    """A task with fewer classes has labels that fit a smaller head, in the order given."""
    write_mnist(tmp_path, small_mnist())
    ((images, labels),) = digits.create_dataset(tmp_path, 2, train=True, classes=(3, 7))
    train, _ = digits.load_mnist(tmp_path)
    by_label = {label: image for image, label in zip(images, labels.tolist(), strict=True)}
    assert torch.equal(by_label[0], train.images[2])
    assert torch.equal(by_label[1], train.images[0])


def test_a_limit_takes_the_first_images_of_the_chosen_classes():
    """A short run sees fewer images, of the same classes."""
    ((_, labels),) = digits.create_dataset(None, 64, train=False, classes=(4, 5), limit=10)
    assert len(labels) == 10
    assert set(labels.tolist()) == {0, 1}
