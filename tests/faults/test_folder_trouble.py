"""A folder that vanishes, becomes read-only, belongs to another user, or has a folder where a checkpoint should be."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess

import pytest
from tests.faults.system_calls import SystemCalls
from tests.faults.training import OVERWRITTEN, Training, step_of

from milepost.errors import SaveError


def test_a_folder_that_is_removed_while_training_is_made_again(tmp_path):
    """What was removed is gone, but the training is not: its next checkpoint is there."""
    training = Training(tmp_path / "run")
    training.resume()
    training.save(1)
    shutil.rmtree(tmp_path / "run")
    assert step_of(training.save(2)) == 2


def test_a_folder_that_is_removed_in_the_middle_of_a_save_is_told(tmp_path):
    """A `SaveError` with the reason, and the next save succeeds."""
    training = Training(tmp_path / "run")
    training.resume()

    def meet(call, do):
        if call.name == "fsync":
            shutil.rmtree(tmp_path / "run", ignore_errors=True)
        return do()

    with SystemCalls(meet), pytest.raises(SaveError, match="Do not remove the folder") as caught:
        training.save(1)
    assert caught.value.errno == errno.ENOENT
    assert step_of(training.save(2)) == 2


def test_a_folder_that_becomes_a_file_is_told(tmp_path):
    """A `SaveError` that says that it is no folder."""
    training = Training(tmp_path / "run")
    training.resume()
    shutil.rmtree(tmp_path / "run")
    (tmp_path / "run").touch()
    with pytest.raises(SaveError, match="run") as caught:
        training.save(1)
    assert caught.value.errno in (errno.EEXIST, errno.ENOTDIR)
    assert caught.value.remedy == "Give a folder, not a file, as the directory."


def test_a_file_system_that_becomes_read_only_is_told(small_disk):
    """As after a disk error: a `SaveError`, the old files are whole, and the training goes on when it is writable."""
    folder = small_disk / "run"
    training = Training(folder)
    training.resume()
    training.save(1)
    # Not a remount of the whole: the kernel refuses that while the lock of the run is open.
    subprocess.run(["mount", "--bind", str(folder), str(folder)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(folder)], check=True)
    for act in (training.save, training.overwrite):
        with pytest.raises(SaveError, match="Save to a folder that can be written to") as caught:
            act(2)
        assert caught.value.errno == errno.EROFS
    assert step_of(training.manager.latest()) == 1
    subprocess.run(["umount", str(folder)], check=True)
    assert step_of(training.save(3)) == 3


def test_a_folder_without_the_right_to_write_is_told(tmp_path, processes):
    """A `SaveError` that names the right; a process of another user meets it, since root may always write."""
    if os.geteuid() != 0:
        # No right stops root, and only root can become a user whom one does.
        pytest.skip("only root can become another user")
    folder = tmp_path / "run"
    for parent in (tmp_path, *tmp_path.parents):
        if "pytest" in str(parent):
            parent.chmod(0o755)
    process = processes.Process(target=save_as_another_user, args=(folder,))
    process.start()
    process.join(60)
    assert process.exitcode == 0
    process.close()
    assert [step_of(path) for path in folder.glob("*.ckpt")] == [1]
    assert not list(folder.glob(".*.tmp"))


def save_as_another_user(folder) -> None:
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    os.setgid(65534)
    os.setuid(65534)
    training = Training(folder)
    training.resume()
    training.save(1)
    folder.chmod(0o500)
    with pytest.raises(SaveError, match="Give this user the right to write") as caught:
        training.save(2)
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize("content", [[], ["precious"]], ids=["empty", "with files"])
@pytest.mark.parametrize("act", ["save", "overwrite"])
def test_a_folder_at_the_name_of_a_checkpoint_is_kept_and_told(tmp_path, act, content):
    """A `SaveError`; the folder and what is in it stay, nothing is left behind, and the next save succeeds."""
    training = Training(tmp_path)
    training.resume()
    in_the_way = tmp_path / ("net-1_1.ckpt" if act == "save" else OVERWRITTEN)
    in_the_way.mkdir()
    for name in content:
        (in_the_way / name).write_text("precious")
    with pytest.raises(SaveError, match=r"\.ckpt") as caught:
        getattr(training, act)(1)
    assert caught.value.errno == errno.EISDIR
    assert os.listdir(in_the_way) == content
    assert not list(tmp_path.glob(".*.tmp"))
    assert step_of(training.save(2)) == 2
