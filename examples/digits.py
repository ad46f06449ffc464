"""Handwritten digits as batches: MNIST from its IDX files, or those of scikit-learn. No network is known here."""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Sequence
from io import BufferedReader
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

IMAGE_SIZE = 32  # pixels: what ResNet-50 halves five times
TEST_IMAGES = 360  # of the 1,797 digits of scikit-learn, a fifth

# Type code -> element type, all big-endian. Source of this table and of the layout in `read_idx`:
# "The IDX file format" in Yann LeCun's "The MNIST database of handwritten digits", http://yann.lecun.com/exdb/mnist/.
IDX_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

_GZIP_MAGIC = b"\x1f\x8b"
_MAX_DIMENSIONS = 32  # what every supported NumPy can hold
_CHUNK_NBYTES = 1 << 20
_File: TypeAlias = BufferedReader | gzip.GzipFile


class IdxError(ValueError):
    """An IDX file is not what it should be: says where, what was found, what was expected, and what to do."""

    def __init__(self, where: Path, *, found: str, expected: str, remedy: str = "Download the file again.") -> None:
        super().__init__(f"{where}: found {found}; expected {expected}. {remedy}")


class Digits(NamedTuple):
    """Images and what they show.

    Args:
        images: float32 of the shape (N, 1, 32, 32).
        labels: int64 of the shape (N,), the digits.
    """

    images: Tensor
    labels: Tensor


def create_dataset(
    folder: Path | None,
    batch_size: int,
    *,
    train: bool,
    classes: Sequence[int] = range(10),
    limit: int | None = None,
    seed: int = 0,
) -> DataLoader[tuple[Tensor, ...]]:
    """Return batches of images (N, 1, 32, 32) and labels (N,), shuffled anew each epoch for training.

    Args:
        folder: Where the four files of MNIST are; None takes the digits of scikit-learn.
        batch_size: Images per batch. Training leaves out an incomplete last batch.
        train: The training's images, or those of the test.
        classes: The digits to take; the first of them gets the label 0, the second 1, ...
        limit: Take no more than so many images.
        seed: Decides the order of the training's images.

    Raises:
        FileNotFoundError: A file of MNIST is not in the folder.
        IdxError: One of them is damaged, or does not belong to the others.
    """
    splits = load_sklearn_digits() if folder is None else load_mnist(folder)
    images, labels = splits[0] if train else splits[1]
    wanted = torch.tensor(list(classes))
    chosen = torch.isin(labels, wanted).nonzero().flatten()[:limit]
    new_labels = (labels[chosen, None] == wanted).int().argmax(dim=1)
    # A generator of its own keeps the order apart from whatever else draws random numbers; Milepost saves its state.
    return DataLoader(
        TensorDataset(images[chosen], new_labels),
        batch_size,
        shuffle=train,
        drop_last=train,
        generator=torch.Generator().manual_seed(seed),
    )


def load_sklearn_digits() -> tuple[Digits, Digits]:
    """Return the 1,797 digits of 8x8 pixels that scikit-learn ships, enlarged: 1,437 for training, 360 for the test.

    Source: E. Alpaydin, C. Kaynak, Optical Recognition of Handwritten Digits, https://doi.org/10.24432/C50P49.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = torch.from_numpy(digits.images).float().unsqueeze(1)
    images = functional.interpolate(small, size=IMAGE_SIZE, mode="bilinear", align_corners=False)
    parts = train_test_split(
        images.numpy(), digits.target, test_size=TEST_IMAGES, stratify=digits.target, random_state=0
    )
    train_images, test_images, train_labels, test_labels = (torch.from_numpy(part) for part in parts)
    return _normalised(Digits(train_images, train_labels.long()), Digits(test_images, test_labels.long()))


def load_mnist(folder: Path) -> tuple[Digits, Digits]:
    """Return MNIST's 60,000 images for training and 10,000 for the test, with a border that makes them 32x32.

    Args:
        folder: Holds ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``, ``t10k-images-idx3-ubyte`` and
            ``t10k-labels-idx1-ubyte``, each with or without ``.gz``; ``train-images.idx3-ubyte`` etc. will do.

    Raises:
        FileNotFoundError: One of them is not there.
        IdxError: One of them is damaged, or does not belong to the others.
    """
    return _normalised(_read_mnist(folder, "train"), _read_mnist(folder, "t10k"))


def read_idx(path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    """Read an IDX file, gzipped or not, into an array of the machine's byte order.

    The layout: two zero bytes, a type code, the number of dimensions; each dimension as a big-endian uint32;
    the elements, big-endian, the last dimension running fastest.

    Args:
        path: The file; its content tells whether it is gzipped, not its name.

    Raises:
        IdxError: The file is something else, or shorter or longer than its header says.
    """
    with path.open("rb") as raw:
        is_gzipped = raw.peek(2)[:2] == _GZIP_MAGIC
        try:
            return _read_array(gzip.GzipFile(fileobj=raw) if is_gzipped else raw, path)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise IdxError(path, found=f"damaged gzip data ({error})", expected="a whole gzip file") from error


def _read_array(file: _File, path: Path) -> np.ndarray[Any, np.dtype[Any]]:
    magic = _read_exactly(file, 4, path, "the magic number, ")
    zeros, code, dimensions = struct.unpack(">HBB", magic)
    if zeros or code not in IDX_DTYPES or dimensions > _MAX_DIMENSIONS:
        codes = ", ".join(f"{known:02x}" for known in IDX_DTYPES)
        raise IdxError(
            path,
            found=f"the magic number {magic.hex()}",
            expected=f"0000, then a type ({codes}), then the number of dimensions (at most {_MAX_DIMENSIONS:02x})",
            remedy="It is no IDX file; look whether the download is a web page or an archive.",
        )
    shape = struct.unpack(f">{dimensions}I", _read_exactly(file, 4 * dimensions, path, f"{dimensions} dimensions, "))
    dtype = np.dtype(IDX_DTYPES[code])
    content = _read_exactly(file, math.prod(shape) * dtype.itemsize, path, f"elements of the shape {shape}, ")
    if file.read(1):
        raise IdxError(
            path, found="more bytes after the last element", expected=f"the end after elements of the shape {shape}"
        )
    try:
        return np.frombuffer(content, dtype).reshape(shape).astype(dtype.newbyteorder("="))
    except ValueError as error:  # no element, and a shape whose other dimensions exceed what NumPy can count
        raise IdxError(path, found=f"the shape {shape}", expected="one that NumPy can hold") from error


def _read_exactly(file: _File, nbytes: int, path: Path, what: str) -> bytearray:
    # In chunks: memory grows with what is there, not with what a damaged header promises.
    content = bytearray()
    while len(content) < nbytes:
        chunk = file.read(min(nbytes - len(content), _CHUNK_NBYTES))
        if not chunk:
            raise IdxError(path, found=f"{len(content):,} bytes", expected=f"{what}{nbytes:,} bytes")
        content += chunk
    return content


def _read_mnist(folder: Path, part: str) -> Digits:
    images_path, labels_path = _find(folder, f"{part}-images", 3), _find(folder, f"{part}-labels", 1)
    images, labels = read_idx(images_path), read_idx(labels_path)
    if images.dtype != np.uint8 or images.ndim != 3 or not 0 < max(images.shape[1:]) <= IMAGE_SIZE:
        raise _not_mnist(images_path, images, f"images of bytes, at most {IMAGE_SIZE}x{IMAGE_SIZE}")
    if labels.dtype != np.uint8 or labels.ndim != 1 or labels.max(initial=0) > 9:
        raise _not_mnist(labels_path, labels, "labels from 0 to 9, one byte each")
    if len(images) != len(labels):
        raise IdxError(
            labels_path,
            found=f"{len(labels):,} labels",
            expected=f"one for each of the {len(images):,} images of {images_path.name}",
            remedy="Take both files from the same data set.",
        )
    rows, columns = (IMAGE_SIZE - size for size in images.shape[1:])
    border = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
    padded = functional.pad(torch.from_numpy(images).unsqueeze(1), border)
    return Digits(padded.float(), torch.from_numpy(labels).long())


def _find(folder: Path, stem: str, dimensions: int) -> Path:
    names = [f"{stem}{mark}idx{dimensions}-ubyte{end}" for mark in "-." for end in ("", ".gz")]
    for name in names:
        if (folder / name).is_file():
            return folder / name
    raise FileNotFoundError(f"{folder}: found none of {', '.join(names)}; expected one. Put the file there.")


def _not_mnist(path: Path, array: np.ndarray[Any, np.dtype[Any]], expected: str) -> IdxError:
    return IdxError(
        path,
        found=f"{array.dtype} of the shape {array.shape}, at most {array.max(initial=0)}",
        expected=expected,
        remedy="Take the file from MNIST, or from a data set of its form.",
    )


def _normalised(train: Digits, test: Digits) -> tuple[Digits, Digits]:
    # The mean and the deviation come from the training's images alone: the test must stay unseen.
    mean, deviation = train.images.mean(), train.images.std()
    scaled = [part._replace(images=(part.images - mean) / deviation) for part in (train, test)]
    return scaled[0], scaled[1]
