"""`Guard`: holds a snapshot together while it is written and the training goes on. Files and threads are elsewhere.

One tensor's way, under one lock::

    PENDING --writer--> TAKING --------------------> DONE     its own memory was written
    PENDING --secure--> COPYING --> COPIED --writer--> DONE   it was about to change, and a copy was written

As long as the bytes depend on the tensor's own memory its version counter is watched: a write that nobody announced
tears the snapshot, which then must not be published. torch counts a write when it has ended, so one that went on while
the bytes were taken may show only later: the counters are watched until the training has come to where no write of its
can be under way (`secure`, `standing_still`), or has had the time to end it. Writes past the counter (`.data`, NumPy,
foreign code) are not seen, unless every tensor is compared with a copy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import Enum, auto
from functools import partial

import torch
from torch import nn

from milepost.errors import SnapshotError
from milepost.state.buffers import HostBuffers
from milepost.state.lanes import Lane, lane_from
from milepost.state.snapshot import Snapshot
from milepost.state.tensors import bytes_of, content_of

GRACE_SECONDS, GRACE_NBYTES_PER_SECOND = 0.5, 1 << 30
"""How long a write may go on that began while the bytes were taken, where the training does not come by: so long, and
as long as a processor takes at the worst for what stays live."""


class State(Enum):
    """Where the bytes of a tensor are, on their way into a file."""

    PENDING = auto()
    TAKING = auto()
    COPYING = auto()
    COPIED = auto()
    DONE = auto()


def _nothing() -> None:
    """Wait for a copy that was not begun."""


class Slot:
    """One tensor of a snapshot."""

    __slots__ = ("content", "copy", "is_watched", "lane", "name", "reference", "state", "tensor", "version", "wait")

    def __init__(self, name: str, tensor: torch.Tensor, lane: Lane, *, is_watched: bool) -> None:
        self.name = name
        # Another face of the same memory and version counter: what is assigned to `.data` later does not reach it.
        self.tensor = tensor.detach()
        self.lane = lane
        self.is_watched = is_watched
        self.version = tensor._version if is_watched else 0
        self.state = State.PENDING
        self.copy: torch.Tensor | None = None
        self.content: memoryview | None = None
        self.reference: bytes | None = None
        self.wait: Callable[[], object] = _nothing

    @property
    def nbytes(self) -> int:
        """Bytes of the content."""
        return self.tensor.numel() * self.tensor.itemsize

    @property
    def has_changed(self) -> bool:
        """Whether the tensor was written to although its bytes are still wanted."""
        return self.is_watched and self.tensor._version != self.version

    def begin_copy(self, buffer: torch.Tensor) -> None:
        """Begin to copy the tensor into a buffer."""
        place = buffer.view(self.tensor.dtype).view(self.tensor.shape)
        with torch.no_grad():
            self.wait = self.lane.copy(place, self.tensor)
        self.copy, self.content = buffer, bytes_of(place)

    def differs(self) -> bool:
        """Whether the tensor is not what it was when its reference was taken."""
        return self.reference is not None and content_of(self.tensor) != self.reference


_PLAIN = (torch.Tensor, nn.Parameter, nn.Buffer)


def can_stay_live(tensor: torch.Tensor) -> bool:
    """Whether a tensor has memory that can be read beside the training, and a version counter to watch."""
    return type(tensor) in _PLAIN and (tensor.is_cpu or tensor.is_cuda) and not tensor.is_inference()


class Guard:
    """Lets a snapshot's tensors be written from their own memory for as long as they do not change.

    The snapshot's arrays give their bytes to one writer, whose thread may be any; `secure` is called by the training.

    Args:
        snapshot: What is to be written; its arrays become guarded ones.
        stays_live: Whether the tensor of a name does not change before `secure` is called; any other is copied at once.
        buffers: Memory for copies. Where there is no room in it, `secure` waits for the writer instead.
        checks: Whether to compare every tensor that stays live with a copy.
        lane: The way from a device to the host.

    Attributes:
        torn: The name of a tensor that changed too early, or None.
        copied_nbytes: Bytes that were copied so far.
        waited_seconds: What `secure` cost the training so far.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        stays_live: Callable[[str, torch.Tensor], bool],
        buffers: HostBuffers,
        *,
        checks: bool = False,
        lane: Callable[[torch.device], Lane] = lane_from,
    ) -> None:
        self.torn: str | None = None
        self.copied_nbytes = 0
        self.waited_seconds = 0.0
        self._changed = threading.Condition()
        self._buffers = buffers
        self._lanes = {device: lane(device) for device in {tensor.device for tensor in snapshot.tensors.values()}}
        self._busy = 0
        self._is_over = self._is_secured = self._is_still = False
        self._training = threading.get_ident()
        self._unseen: set[str] = set()
        self._slots: list[Slot] = []
        self._live: list[Slot] = []
        for name, tensor in snapshot.tensors.items():
            is_live = stays_live(name, tensor) and can_stay_live(tensor)
            slot = Slot(name, tensor, self._lanes[tensor.device], is_watched=is_live)
            array = snapshot.arrays[name]
            array.content, array.release = partial(self._content, slot), partial(self._release, slot)
            self._slots.append(slot)
            if is_live:
                self._live.append(slot)
                slot.reference = bytes(content_of(tensor)) if checks else None
            else:
                self._copy_at_once(slot)
        self._hold_training()
        with self._changed:
            for slot in self._live:
                if slot.lane.is_async:  # the device copies beside the training, as far as there is room
                    self._copy(slot)

    def secure(self) -> None:
        """Return when the tensors may change: what is not written yet is copied, or waited for."""
        if self._is_secured or self._is_over:
            return
        began = time.perf_counter()
        with self._changed:
            for slot in reversed(self._live):  # the writer comes from the front
                while self._is_wanted(slot):
                    if not self._copy(slot) and self._is_wanted(slot):  # it may have ended, or been torn, meanwhile
                        self._changed.wait()
            self._changed.wait_for(lambda: self._busy == 0 or self._is_over or self.torn is not None)
            self._hold_training()  # only now every copy has been given to its stream
            for slot in self._live:
                self._settle(slot)
            self._is_secured = True
            self._changed.notify_all()
        self.waited_seconds += time.perf_counter() - began

    def _is_wanted(self, slot: Slot) -> bool:
        return slot.state is State.PENDING and not self._is_over and self.torn is None

    @contextmanager
    def standing_still(self) -> Iterator[None]:
        """For the training, while it waits for the writer: no write of its is under way."""
        with self._changed:
            self._is_still = threading.get_ident() == self._training
            self._changed.notify_all()
        try:
            yield
        finally:
            self._is_still = False

    def check(self) -> None:
        """Refuse a snapshot that was torn, when all of it is taken; waits until a tear would have shown.

        Raises:
            SnapshotError: A tensor changed while its bytes were wanted.
        """
        nbytes = sum(slot.nbytes for slot in self._live if slot.is_watched)
        with self._changed:
            if nbytes:
                self._changed.wait_for(
                    lambda: self._is_secured or self._is_still or self.torn is not None,
                    GRACE_SECONDS + nbytes / GRACE_NBYTES_PER_SECOND,
                )
            for slot in self._live:
                self._watch(slot)
        self._refuse_torn()

    def _refuse_torn(self) -> None:
        if self.torn is not None:
            raise SnapshotError(
                f"entry {self.torn!r}",
                found="a write to the tensor while it was being saved, outside of an optimizer's step",
                expected="no change before the next step",
                remedy='Save with async_save="copied" where a training does that.',
            )

    def written_unseen(self) -> list[str]:
        """The tensors that differ from their copies although their counters say that nobody has written to them."""
        unseen = [slot for slot in self._live if slot.tensor._version == slot.version]
        return sorted(slot.name for slot in unseen if slot.name in self._unseen or slot.differs())

    def close(self) -> None:
        """Let go of everything: the writer has ended."""
        with self._changed:
            self._is_over = True
            for slot in self._slots:
                self._wait_for_copy(slot)
                self._free(slot)
            # Here, and not where the training would have to take hundreds of objects apart.
            self._slots.clear()
            self._live = [slot for slot in self._live if slot.reference is not None]
            self._changed.notify_all()

    def _content(self, slot: Slot) -> memoryview:
        with self._changed:
            self._wait_for_copy(slot)
            self._watch(slot)
            self._refuse_torn()
            if slot.state is State.PENDING and (slot.lane.is_async or slot.reference is not None):
                self._copy(slot, is_needed=True)
            if slot.state is State.PENDING:
                self._busy += 1
                slot.state = State.TAKING
        if slot.content is None:
            return content_of(slot.tensor)
        slot.wait()
        with self._changed:
            self._watch(slot)
            self._refuse_torn()
        return slot.content

    def _release(self, slot: Slot) -> None:
        with self._changed:
            self._wait_for_copy(slot)
            self._watch(slot)
            if slot.state is State.TAKING:
                self._busy -= 1
            slot.state = State.DONE
            self._free(slot)
            self._changed.notify_all()

    def _copy(self, slot: Slot, *, is_needed: bool = False) -> bool:
        """Copy a tensor aside, and return whether there was room for it; the lock is let go of meanwhile."""
        self._watch(slot)
        if self.torn is not None:
            return False
        if slot.reference is not None:
            if slot.differs():
                self._unseen.add(slot.name)
            slot.state, slot.content = State.COPIED, memoryview(slot.reference)
            return True
        buffer = self._buffers.take(slot.nbytes, is_pinned=slot.lane.is_async, is_needed=is_needed)
        if buffer is None:
            return False
        slot.state = State.COPYING
        self._busy += 1
        self._changed.release()
        try:
            slot.begin_copy(buffer)
        except Exception:  # the writer may still take it as it is
            if is_needed:
                raise
        finally:
            self._changed.acquire()
            self._busy -= 1
            slot.state = State.PENDING if slot.copy is None else State.COPIED
            self._changed.notify_all()
        if slot.copy is None:
            self._buffers.give(buffer, is_pinned=slot.lane.is_async)
            return False
        self.copied_nbytes += slot.nbytes
        return True

    def _copy_at_once(self, slot: Slot) -> None:
        if type(slot.tensor) is not torch.Tensor:  # who knows what a copy of a subclass is
            slot.content = memoryview(bytes(content_of(slot.tensor)))
        else:
            buffer = self._buffers.take(slot.nbytes, is_pinned=slot.lane.is_async, is_needed=True)
            assert buffer is not None
            slot.begin_copy(buffer)
        slot.state = State.COPIED
        self.copied_nbytes += slot.nbytes

    def _hold_training(self) -> None:
        for lane in self._lanes.values():
            lane.hold_training()

    def _settle(self, slot: Slot) -> None:
        """In the training's thread: no write is under way, and nothing depends on the tensor any more."""
        self._watch(slot)
        slot.is_watched = False

    def _watch(self, slot: Slot) -> None:
        if slot.has_changed and self.torn is None:
            self.torn = slot.name

    def _wait_for_copy(self, slot: Slot) -> None:
        """Until whoever copies the tensor knows its buffer; before, it must not be given back."""
        self._changed.wait_for(lambda: slot.state is not State.COPYING)

    def _free(self, slot: Slot) -> None:
        if slot.copy is not None:
            slot.wait()  # of a save that was given up the copy may still be under way
            self._buffers.give(slot.copy, is_pinned=slot.lane.is_async)
            slot.copy = slot.content = None
