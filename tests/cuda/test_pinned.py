"""Memory that a GPU writes into: no more of it than is asked for, given back, and none of a child's business."""

from __future__ import annotations

import os

import pytest
import torch

from milepost.format.schema import PLACED_MODULUS, PLACED_REMAINDER
from milepost.state.buffers import HostBuffers
from milepost.state.pinned import pinned


def fill(memory, value):
    """Copy from the device, and return whether the device did it on its own."""
    source = torch.full((memory.numel(),), value, dtype=torch.uint8, device="cuda")
    torch.cuda.synchronize()
    torch.cuda._sleep(200_000_000)
    memory.copy_(source, non_blocking=True)
    done = torch.cuda.Event()
    done.record()
    is_async = not done.query()
    done.synchronize()
    return is_async


@pytest.mark.parametrize("nbytes", [1, 4096, (1 << 20) + 12, 48_000_001])
def test_the_device_writes_into_it_beside_the_host(nbytes):
    """All of it, and it lies as contents do in a file."""
    memory = pinned(nbytes)
    assert memory.shape == (nbytes,)
    assert memory.data_ptr() % PLACED_MODULUS == PLACED_REMAINDER
    assert fill(memory, 7)
    assert (memory == 7).all()


def test_memory_that_nobody_holds_is_given_back():
    """The driver refuses pages that it has already, and new memory lies where old memory lay."""
    for value in range(20):
        memory = pinned(32 << 20)
        fill(memory, value)
        del memory


def test_small_buffers_share_pages():
    """A thousand of them take little more than they hold, and none reaches into another."""
    buffers = HostBuffers()
    buffers.limit_nbytes = 1 << 30
    sizes = [37 * number % 5000 for number in range(1000)]
    taken = [buffers.take(size, is_pinned=True) for size in sizes]
    assert len({buffer.untyped_storage().data_ptr() for buffer in taken}) <= 2
    for number, buffer in enumerate(taken):
        buffer.fill_(number % 251)
    for number, buffer in enumerate(taken):
        assert buffer.numel() == sizes[number]
        assert (buffer == number % 251).all()
    assert buffers.nbytes == sum(sizes)


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")  # CUDA has threads
def test_a_forked_child_leaves_the_memory_to_its_parent():
    """The child drops it and ends; the device still writes where the parent looks."""
    memory = pinned(8 << 20)
    fill(memory, 1)
    child = os.fork()
    if not child:
        del memory
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    memory[:100] = 2
    fill(memory, 3)
    assert (memory == 3).all()
