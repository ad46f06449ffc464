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


def test_a_second_name_costs_no_space_and_is_durable(tmp_path, monkeypatch):
    """A hard link, renamed into place, then an fsync of the folder, also where the name was there already."""
    storage = LocalStorage(tmp_path)
    save(storage, "a.ckpt", b"x")
    calls = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append(os.readlink(f"/proc/self/fd/{fd}")), fsync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (calls.append(str(b)), replace(a, b)))
    storage.link("a.ckpt", "best.ckpt")
    assert calls == [str(tmp_path / "best.ckpt"), str(tmp_path)]
    assert (tmp_path / "best.ckpt").samefile(tmp_path / "a.ckpt")
    storage.link("a.ckpt", "best.ckpt")
    assert calls[2:] == [str(tmp_path)]
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "best.ckpt"]


@pytest.mark.parametrize(
    "reason", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV, errno.ENOSYS, errno.EACCES, errno.EIO]
)
def test_where_there_are_no_hard_links_there_is_a_copy(tmp_path, monkeypatch, reason):
    """Of any size, and as durable as any file."""

    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    storage = LocalStorage(tmp_path)
    content = os.urandom(9 * 2**20 + 1)
    save(storage, "a.ckpt", content)
    save(storage, "best.ckpt", b"old")
    monkeypatch.setattr(os, "link", refuse)
    storage.link("a.ckpt", "best.ckpt")
    assert (tmp_path / "best.ckpt").read_bytes() == content
    assert not (tmp_path / "best.ckpt").samefile(tmp_path / "a.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "best.ckpt"]


def test_a_name_that_is_swept_away_before_it_is_final_is_made_again(tmp_path, monkeypatch):
    """Another process may take it for a dead one's at just this moment."""
    storage = LocalStorage(tmp_path)
    save(storage, "a.ckpt", b"x")
    link, swept = os.link, []

    def link_and_sweep(source, name):
        link(source, name)
        if not swept:
            swept.extend(LocalStorage(tmp_path).sweep(lambda name: True))

    monkeypatch.setattr(os, "link", link_and_sweep)
    storage.link("a.ckpt", "best.ckpt")
    assert len(swept) == 1
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "best.ckpt"]


def test_a_second_name_that_is_refused_is_an_error_and_leaves_nothing(tmp_path):
    """The message names the path, and what had the name is untouched."""
    storage = LocalStorage(tmp_path)
    save(storage, "a.ckpt", b"x")
    (tmp_path / "best.ckpt").mkdir()
    with pytest.raises(SaveError, match=r"best\.ckpt") as caught:
        storage.link("a.ckpt", "best.ckpt")
    assert caught.value.errno == errno.EISDIR
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "best.ckpt"]


def test_a_symbolic_link_at_the_second_name_is_replaced_not_followed(tmp_path):
    """Neither one that leads elsewhere nor one that leads to the file itself."""
    storage = LocalStorage(tmp_path)
    save(storage, "a.ckpt", b"x")
    save(storage, "victim", b"precious")
    for target in ("victim", "a.ckpt"):
        (tmp_path / "best.ckpt").unlink(missing_ok=True)
        (tmp_path / "best.ckpt").symlink_to(target)
        storage.link("a.ckpt", "best.ckpt")
        assert not (tmp_path / "best.ckpt").is_symlink()
        assert (tmp_path / "best.ckpt").read_bytes() == b"x"
    assert (tmp_path / "victim").read_bytes() == b"precious"


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
