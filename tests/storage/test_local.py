"""What only a real file system can show."""

from __future__ import annotations

import errno
import os
import resource
import signal

import pytest

from milepost.errors import NotACheckpointError, SaveError
from milepost.storage.local import LocalStorage


def save(storage: LocalStorage, name: str, content: bytes) -> None:
    with storage.create(name, len(content)) as file:
        file.write(content)
        file.commit()


def test_the_order_of_a_commit_is_fsync_rename_fsync_of_the_folder(tmp_path, monkeypatch):
    """A power cut after commit loses nothing: content is durable before the name, the name before the return."""
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os, "fsync", lambda fd: (calls.append(("fsync", os.readlink(f"/proc/self/fd/{fd}"))), fsync(fd))
    )
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(("replace", str(b))), replace(a, b)))
    save(LocalStorage(tmp_path), "a.ckpt", b"x")
    assert [verb for verb, _ in calls] == ["fsync", "replace", "fsync"]
    assert calls[0][1].endswith(".tmp")
    assert calls[1][1] == str(tmp_path / "a.ckpt")
    assert calls[2][1] == str(tmp_path)


def test_a_link_at_the_final_name_is_replaced_not_followed(tmp_path):
    """A link cannot redirect a save."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "a.ckpt").symlink_to(victim)
    save(LocalStorage(tmp_path), "a.ckpt", b"x")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "a.ckpt").is_symlink()


def test_a_disk_too_small_is_noticed_before_the_write(tmp_path):
    """Needed and free bytes stand in the message, and nothing is left behind."""
    with pytest.raises(SaveError, match=r"bytes free, 1,000,000,000,000,000 needed") as caught:
        LocalStorage(tmp_path).create("a.ckpt", 10**15)
    assert caught.value.errno == errno.ENOSPC
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_the_system_refuses_keeps_the_old_file_and_leaves_nothing(tmp_path):
    """A full quota in the middle of a save costs no earlier checkpoint."""
    storage = LocalStorage(tmp_path)
    save(storage, "a.ckpt", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
        with pytest.raises(SaveError, match="File too large") as caught:
            save(storage, "a.ckpt", bytes(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert caught.value.errno == errno.EFBIG
    assert [path.name for path in tmp_path.iterdir()] == ["a.ckpt"]
    assert (tmp_path / "a.ckpt").read_bytes() == b"old"


def test_a_directory_that_is_a_file_is_refused_with_the_reason(tmp_path):
    """The message names the path."""
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="file"):
        LocalStorage(tmp_path / "file").create("a.ckpt", 1)


@pytest.mark.parametrize("kind", ["folder", "pipe", "device"])
def test_only_regular_files_are_opened(tmp_path, kind):
    """A pipe is refused at once instead of waited for."""
    path = tmp_path / "a.ckpt"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to("/dev/zero")
    with pytest.raises(NotACheckpointError, match=r"a\.ckpt"):
        LocalStorage(tmp_path).open("a.ckpt")


def test_unfinished_files_of_others_are_not_listed(tmp_path):
    """What a killed process left is not a checkpoint."""
    save(LocalStorage(tmp_path), "a.ckpt", b"x")
    (tmp_path / ".b.ckpt.123-abcdef01.tmp").write_bytes(b"half")
    (tmp_path / "folder").mkdir()
    assert [stat.name for stat in LocalStorage(tmp_path).list()] == ["a.ckpt"]


def test_files_obey_the_umask(tmp_path):
    """Modes are the user's business, as for any other program."""
    old = os.umask(0o027)
    try:
        save(LocalStorage(tmp_path), "a.ckpt", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.ckpt").stat().st_mode & 0o777 == 0o640
