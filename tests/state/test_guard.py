"""A snapshot that is written while the training goes on: what the writer gets is what was there, or it is told."""

from __future__ import annotations

import threading
import time

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from torch import nn

from milepost.errors import SnapshotError
from milepost.state.buffers import HostBuffers
from milepost.state.guard import GRACE_SECONDS, Guard
from milepost.state.lanes import HostLane
from milepost.state.snapshot import Snapshot
from milepost.state.tensors import content_of


class LateLane:
    """Like a device's stream: copies happen when somebody waits for them, or when what comes after is held back."""

    is_async = True

    def __init__(self):
        self._begun = []

    def copy(self, place, tensor):
        def act():
            if act in self._begun:
                self._begun.remove(act)
                place.copy_(tensor)

        self._begun.append(act)
        return act

    def hold_training(self):
        for act in list(self._begun):
            act()


class UnpinnedBuffers(HostBuffers):
    """Without a GPU there is no pinned memory."""

    def take(self, nbytes, *, is_pinned=False, is_needed=False):
        return super().take(nbytes, is_needed=is_needed)

    def give(self, buffer, *, is_pinned=False):
        super().give(buffer)


def buffers_of(nbytes: int = 2**40) -> HostBuffers:
    buffers = UnpinnedBuffers()
    buffers.limit_nbytes = nbytes
    return buffers


def snapshot_of(tensors) -> Snapshot:
    snapshot = Snapshot()
    for name, tensor in tensors.items():
        snapshot.keep(name, "parameter", tensor)
    return snapshot


def everything(name, tensor) -> bool:
    return True


def nothing(name, tensor) -> bool:
    return False


class GuardedTensors(RuleBasedStateMachine):
    """A writer, a training, and somebody who writes out of turn, in any order; compared with a model.

    The model: a tensor must not change before `secure`, which copies all that is not written. A write to a tensor that
    stays live tears the snapshot until then, also where its bytes are written already; nothing else does.
    """

    lane = HostLane

    @initialize(count=st.integers(1, 5), room=st.sampled_from([0, 40, 2**40]), live=st.integers(0, 31))
    def begin(self, count, room, live):
        self.tensors = {f"t{place}": torch.full((5,), float(place)) for place in range(count)}
        self.before = {name: bytes(content_of(tensor)) for name, tensor in self.tensors.items()}
        self.snapshot = snapshot_of(self.tensors)
        live_names = {f"t{place}" for place in range(count) if live >> place & 1}
        self.room = room
        self.guard = Guard(
            self.snapshot, lambda name, _: name in live_names, buffers_of(room), lane=lambda _: self.lane()
        )
        self.untaken = dict(self.snapshot.arrays)
        self.taking: dict[str, memoryview] = {}
        self.wanted = set(live_names)
        self.is_torn = self.is_over = False

    @precondition(lambda self: self.untaken and not self.is_over)
    @rule(data=st.data())
    def take(self, data):
        """The writer asks for a tensor's bytes."""
        name = data.draw(st.sampled_from(sorted(self.untaken)))
        array = self.untaken.pop(name)
        if self.is_torn:
            try:
                array.content()
            except SnapshotError:
                self.stop()
                return
        self.taking[name] = array.content()

    @precondition(lambda self: self.taking and not self.is_over)
    @rule(data=st.data())
    def release(self, data):
        """The writer has taken the bytes in: they are those of the beginning, unless somebody was told."""
        name = data.draw(st.sampled_from(sorted(self.taking)))
        found = bytes(self.taking.pop(name))
        self.snapshot.arrays[name].release()
        assert found == self.before[name] or self.guard.torn is not None

    @precondition(lambda self: not self.taking and not self.is_over)
    @precondition(lambda self: self.room >= 2**40 or not self.wanted & set(self.untaken))
    @rule()
    def secure(self):
        """The training is about to change everything. (To wait for the writer is another test's.)"""
        self.guard.secure()
        self.wanted.clear()

    @rule(data=st.data())
    def write(self, data):
        """Somebody writes to a tensor in place."""
        name = data.draw(st.sampled_from(sorted(self.tensors)))
        self.tensors[name].add_(1)
        self.is_torn = self.is_torn or name in self.wanted

    @precondition(lambda self: not self.is_over)
    @rule()
    def finish(self):
        """The writer takes what is left, and asks whether the file may be published."""
        try:
            for name in sorted(self.untaken):
                self.taking[name] = self.untaken[name].content()
            for name in sorted(self.taking):
                self.release_one(name)
            with self.guard.standing_still():
                self.guard.check()
        except SnapshotError:
            assert self.is_torn
        else:
            assert not self.is_torn
        self.stop()

    def release_one(self, name):
        found = bytes(self.taking[name])
        self.snapshot.arrays[name].release()
        assert found == self.before[name] or self.guard.torn is not None

    def stop(self):
        self.is_over = True
        self.guard.close()


class TensorsOfADevice(GuardedTensors):
    """The same where copies are begun, and end later."""

    lane = LateLane


TestGuardedTensors = GuardedTensors.TestCase
TestGuardedTensors.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)
TestTensorsOfADevice = TensorsOfADevice.TestCase
TestTensorsOfADevice.settings = settings(max_examples=60, stateful_step_count=20, deadline=None)


def test_secure_waits_for_the_tensor_that_is_being_written():
    """Its own memory is read, so it must not change before that has ended."""
    tensor = torch.zeros(3)
    snapshot = snapshot_of({"t": tensor})
    guard = Guard(snapshot, everything, buffers_of())
    content = snapshot.arrays["t"].content()
    assert content.obj.ctypes.data == tensor.data_ptr(), "no copy is made"
    training = threading.Thread(target=guard.secure)
    training.start()
    time.sleep(0.05)
    assert training.is_alive()
    snapshot.arrays["t"].release()
    training.join(10)
    assert not training.is_alive()
    assert guard.waited_seconds >= 0.04
    assert guard.copied_nbytes == 0


def test_a_write_that_is_counted_only_after_the_bytes_were_taken_tears_the_snapshot():
    """torch moves the counter when an operation has ended; a large one may begin before the bytes are taken."""
    tensor = torch.zeros(3)
    snapshot = snapshot_of({"t": tensor})
    guard = Guard(snapshot, everything, buffers_of())
    snapshot.arrays["t"].content()
    tensor.data[0] = 1  # the operation is under way
    snapshot.arrays["t"].release()
    torch.autograd.graph.increment_version(tensor)  # and has ended
    with pytest.raises(SnapshotError, match="entry 't': found a write"), guard.standing_still():
        guard.check()


def test_nothing_is_published_before_the_training_comes_by():
    """Or before a write that began while the bytes were taken has had the time to end."""
    snapshot = snapshot_of({"t": torch.zeros(3)})
    guard = Guard(snapshot, everything, buffers_of())
    snapshot.arrays["t"].content()
    snapshot.arrays["t"].release()
    writer = threading.Thread(target=guard.check)
    writer.start()
    writer.join(GRACE_SECONDS / 5)
    assert writer.is_alive()
    guard.secure()
    writer.join(GRACE_SECONDS / 5)
    assert not writer.is_alive()


@pytest.mark.parametrize("nbytes", [1 << 20, (1 << 20) + 5, 3 << 20])
def test_a_large_buffer_lies_as_in_the_file(nbytes):
    """So that a disk can take it without another copy; and it is as large as it was asked to be."""
    buffers = HostBuffers()
    buffers.limit_nbytes = 2**40
    taken = [buffers.take(nbytes) for _ in range(5)]
    assert {buffer.data_ptr() % 512 for buffer in taken} == {64}
    assert {buffer.numel() for buffer in taken} == {nbytes}
    buffers.give(taken[0])
    assert buffers.take(nbytes) is taken[0]


def test_a_tear_that_is_found_by_the_training_keeps_it_waiting_for_nothing():
    """The snapshot is given up, so that nobody has to copy or write what is left of it."""
    tensors = {name: torch.zeros(3) for name in "ab"}
    guard = Guard(snapshot_of(tensors), everything, buffers_of())
    tensors["b"].add_(1)
    training = threading.Thread(target=guard.secure, daemon=True)
    training.start()
    training.join(10)
    assert not training.is_alive()
    assert guard.torn == "b"


@pytest.mark.parametrize("reason", ["no room", "a copy that fails"])
def test_what_cannot_be_copied_is_waited_for(reason, monkeypatch):
    """Memory has a limit, and no failure to copy is an optimizer's."""
    if reason == "a copy that fails":
        monkeypatch.setattr(HostLane, "copy", lambda *_: 1 // 0)
    tensors = {f"t{place}": torch.full((10,), float(place)) for place in range(4)}
    snapshot = snapshot_of(tensors)
    guard = Guard(snapshot, everything, buffers_of(80 if reason == "no room" else 2**40))
    training = threading.Thread(target=guard.secure)
    training.start()
    for place, array in enumerate(snapshot.arrays.values()):
        assert bytes(array.content()) == bytes(content_of(torch.full((10,), float(place))))
        array.release()
    training.join(10)
    assert not training.is_alive()
    assert guard.copied_nbytes <= 80
    guard.check()


def test_a_writer_that_gives_up_keeps_nobody_waiting():
    """There is nothing left to wait for."""
    guard = Guard(snapshot_of({"t": torch.zeros(10)}), everything, buffers_of(0))
    training = threading.Thread(target=guard.secure)
    training.start()
    guard.close()
    training.join(10)
    assert not training.is_alive()


def test_a_writer_that_gives_up_while_a_tensor_is_copied_waits_for_the_copy(monkeypatch):
    """Its buffer is given back once: given out to two tensors, it would put one's bytes under the other's name."""
    begun, may_end = threading.Event(), threading.Event()

    def copy(self, place, tensor):
        begun.set()
        may_end.wait(10)
        place.copy_(tensor)
        return lambda: None

    monkeypatch.setattr(HostLane, "copy", copy)
    snapshot, buffers = snapshot_of({"t": torch.zeros(10)}), buffers_of()
    guard = Guard(snapshot, everything, buffers)
    training = threading.Thread(target=guard.secure)
    training.start()
    assert begun.wait(10)
    writer = threading.Thread(target=lambda: (snapshot.arrays["t"].release(), guard.close()))
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    may_end.set()
    for thread in (writer, training):
        thread.join(10)
        assert not thread.is_alive()
    first, second = buffers.take(40), buffers.take(40)
    assert first is not second


def test_buffers_are_used_again():
    """The second snapshot of the same tensors takes no new memory."""
    buffers = buffers_of()
    for _ in range(3):
        guard = Guard(snapshot_of({"a": torch.zeros(10), "b": torch.zeros(20)}), everything, buffers)
        guard.secure()
        guard.close()
        assert buffers.nbytes == 120


KINDS = {
    "a scalar": lambda: torch.tensor(3.0),
    "an empty one": lambda: torch.zeros(0, 3),
    "bfloat16": lambda: torch.randn(7).bfloat16(),
    "bool": lambda: torch.tensor([True, False]),
    "channels last": lambda: torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last),
    "every second row": lambda: torch.randn(8, 3)[::2],
    "transposed": lambda: torch.randn(3, 4).T,
    "expanded": lambda: torch.randn(1, 3).expand(4, 3),
    "a conjugate view": lambda: torch.randn(4, dtype=torch.complex64).conj(),
    "a parameter": lambda: nn.Parameter(torch.randn(3)),
    "made in inference mode": lambda: made_in_inference_mode(),
    "a subclass": lambda: torch.randn(3).as_subclass(Subclass),
}


class Subclass(torch.Tensor):
    """A tensor of another class."""


def made_in_inference_mode():
    with torch.inference_mode():
        return torch.randn(3)


@pytest.mark.parametrize("lane", [HostLane, LateLane])
@pytest.mark.parametrize("stays_live", [everything, nothing])
@pytest.mark.parametrize("moment", ["written live", "secured first"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_tensor_gives_the_same_bytes_in_every_way(kind, moment, stays_live, lane):
    """Live, copied before it changes, or copied at once."""
    tensor = KINDS[kind]()
    expected = bytes(content_of(tensor))
    snapshot = snapshot_of({"t": tensor})
    guard = Guard(snapshot, stays_live, buffers_of(), lane=lambda _: lane())
    if moment == "secured first":
        guard.secure()
        if kind not in ("expanded", "a subclass", "made in inference mode"):
            with torch.no_grad():
                tensor.zero_()
    assert bytes(snapshot.arrays["t"].content()) == expected
    snapshot.arrays["t"].release()
    guard.check()


def test_views_of_one_memory_are_watched_together():
    """A write by way of one is a write to the other."""
    whole = torch.zeros(10)
    snapshot = snapshot_of({"head": whole[:5], "tail": whole[5:]})
    guard = Guard(snapshot, everything, buffers_of())
    whole.add_(1)
    with pytest.raises(SnapshotError, match="entry 'head': found a write"):
        snapshot.arrays["head"].content()
    guard.close()


def test_what_is_assigned_to_data_later_does_not_reach_the_snapshot():
    """The memory of its beginning is kept."""
    parameter = nn.Parameter(torch.zeros(3))
    snapshot = snapshot_of({"t": parameter})
    Guard(snapshot, everything, buffers_of())
    parameter.data = torch.ones(3)
    assert bytes(snapshot.arrays["t"].content()) == bytes(12)


def test_a_comparison_with_a_copy_finds_a_write_past_the_counter():
    """`written_unseen` names it, before and after it is written; what the file gets is right."""
    tensors = {"a": torch.zeros(3), "b": torch.zeros(3), "c": torch.zeros(3)}
    snapshot = snapshot_of(tensors)
    guard = Guard(snapshot, everything, buffers_of(), checks=True)
    bytes(snapshot.arrays["a"].content())
    snapshot.arrays["a"].release()
    tensors["a"].data.add_(1)
    tensors["b"].numpy()[0] = 1
    assert bytes(snapshot.arrays["b"].content()) == bytes(12)
    assert guard.written_unseen() == ["a", "b"]
