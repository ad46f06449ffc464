"""Giving a file a second name, cut off and refused at each system call: the old or the new, and never anything else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.faults.power import Disk
from tests.faults.system_calls import SystemCalls, refuse_at

from milepost.errors import SaveError
from milepost.storage.local import LocalStorage

CONTENTS = {"a-1_1.ckpt": b"first", "a-1_2.ckpt": b"second"}
BEST = "a-best.ckpt"


def save(storage: LocalStorage, name: str) -> None:
    with storage.create(name, len(CONTENTS[name])) as file:
        file.write(CONTENTS[name])
        file.commit()


def links(call, do):
    """Let every call through."""
    return do()


def has_no_links(call, do):
    """A file system without hard links."""
    if call.name == "link":
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))
    return do()


@pytest.mark.parametrize("file_system", [links, has_no_links])
def test_a_power_cut_leaves_the_old_or_the_new_under_a_second_name(tmp_path, file_system):
    """After each system call, whichever unsynced changes survive; once the call has returned, the new."""
    storage = LocalStorage(tmp_path)
    disk = Disk(tmp_path)
    allowed: set[bytes | None] = {None}
    seen: set[bytes | None] = set()

    def meet(call, do):
        result = file_system(call, do)
        disk.note(call, result)
        for state in disk.states():
            found = {path.name: content for path, content in state if not path.name.startswith(".")}
            assert found.get(BEST) in allowed
            seen.add(found.get(BEST))
            assert all(found[name] == CONTENTS[name] for name in found if name != BEST)
        return result

    with SystemCalls(meet):
        for name, content in CONTENTS.items():
            save(storage, name)
            allowed.add(content)
            storage.link(name, BEST)
            allowed = {content}
            storage.link(name, BEST)
    assert seen == {None, *CONTENTS.values()}
    assert (tmp_path / BEST).read_bytes() == content


@pytest.mark.parametrize("for_ever", [False, True], ids=["once", "for ever"])
@pytest.mark.parametrize("reason", [errno.EIO, errno.ENOSPC, errno.EACCES, errno.EINTR])
@pytest.mark.parametrize("before", [None, "a-1_1.ckpt", "a-1_2.ckpt"])
def test_a_second_name_whose_every_call_is_refused_in_turn_is_old_or_new(tmp_path, before, reason, for_ever):
    """Done, or a `SaveError` with the errno; nothing is left behind that a later sweep does not find."""
    folder = iter(tmp_path / str(number) for number in range(1000))

    def attempt(refusal: Callable) -> bool:
        """Whether there was a call to be refused."""
        storage = LocalStorage(next(folder))
        for name in CONTENTS:
            save(storage, name)
        if before:
            storage.link(before, BEST)
        calls, refused = SystemCalls(refusal), None
        try:
            with calls:
                storage.link("a-1_2.ckpt", BEST)
        except SaveError as error:
            refused = error.errno
        assert refused in (None, reason)
        judge(storage.directory, {b"second"} if refused is None else {CONTENTS.get(before), b"second"})
        return len(calls.calls) >= number

    number = 1
    while attempt(refuse_at(number, reason, for_ever=for_ever)):
        number += 1
    assert number > 4


def judge(folder: Path, allowed: set[bytes | None]) -> None:
    LocalStorage(folder).sweep(lambda name: name == BEST)
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert found.pop(BEST, None) in allowed
    assert found == CONTENTS
