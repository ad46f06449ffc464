"""The ways from a device to the host: in turn, or on a stream of their own. When to copy is decided elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch


class Lane(Protocol):
    """A way from one device to the host, as it was when a snapshot was begun.

    `is_async` says that a copy goes on after `copy` has returned: until what that returned has been called, or, for
    what the training does from then on, until `hold_training`.
    """

    is_async: bool

    def copy(self, place: torch.Tensor, tensor: torch.Tensor) -> Callable[[], object]:
        """Begin a copy, and return what waits for its end."""

    def hold_training(self) -> None:
        """Let what the training does on the device from now on come after the copies that were begun."""


class HostLane:
    """From memory to memory: a copy is done when it returns. Also for devices without streams."""

    is_async = False

    def copy(self, place: torch.Tensor, tensor: torch.Tensor) -> Callable[[], object]:
        """Copy."""
        place.copy_(tensor)
        return lambda: None

    def hold_training(self) -> None:
        """Nothing is under way."""


class CudaLane:
    """From a CUDA device into pinned memory, on a stream beside the training's, which nobody waits for on the host.

    Made where the training runs: the copies come after what its stream has been given so far.
    """

    is_async = True

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream(device))

    def copy(self, place: torch.Tensor, tensor: torch.Tensor) -> Callable[[], object]:
        """Begin a copy, and return what waits for the event behind it."""
        with torch.cuda.stream(self._stream):
            place.copy_(tensor, non_blocking=True)
            event = torch.cuda.Event()  # type: ignore[no-untyped-call]
            event.record(self._stream)
        return event.synchronize

    def hold_training(self) -> None:
        """Let the training's stream wait, on the device, for this one."""
        torch.cuda.current_stream(self._device).wait_stream(self._stream)


def lane_from(device: torch.device) -> Lane:
    """The way from a device to the host."""
    return CudaLane(device) if device.type == "cuda" else HostLane()
