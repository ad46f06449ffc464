"""Nothing in a file, a name or a prefix leads out of the folder; what is being read stays what it was."""

from __future__ import annotations

import os

import pytest
import torch
from torch import nn

from milepost.checkpoint.loading import load_checkpoint
from milepost.checkpoint.saving import save_checkpoint
from milepost.errors import SettingError
from milepost.manager import CheckpointManager
from milepost.moment import Moment

ELSEWHERE = [
    "../x",
    "../../etc/x",
    "/etc/x",
    "a/b",
    "a\\b",
    "..",
    ".",
    "",
    ".hidden",
    "a\0b",
    "a\nb",
    "\ud800",
    "x" * 300,
]


@pytest.mark.parametrize("prefix", ELSEWHERE)
def test_a_prefix_cannot_lead_out_of_the_folder(prefix, tmp_path):
    """It is refused before anything is written."""
    inside = tmp_path / "inside"
    with pytest.raises(SettingError):
        CheckpointManager(inside, nn.Linear(1, 1), prefix=prefix)
    assert list(tmp_path.iterdir()) == []


def test_names_in_a_file_are_never_paths(tmp_path, monkeypatch):
    """Whatever the entries are called, one file is written and one is opened."""
    names = ["../outside", "/etc/passwd", "..", "a/b", "a\\b", "a\0b", "~", "$HOME", "file:///etc/passwd"]
    inside = tmp_path / "inside"
    path = save_checkpoint({name: torch.ones(1) for name in names}, inside / "a.ckpt")
    assert [file.relative_to(tmp_path).as_posix() for file in tmp_path.rglob("*")] == ["inside", "inside/a.ckpt"]
    opened = []
    open_file = os.open
    monkeypatch.setattr(
        os, "open", lambda place, *rest, **more: opened.append(place) or open_file(place, *rest, **more)
    )
    with load_checkpoint(path) as parameters:
        assert list(parameters) == names
        assert all(torch.equal(value, torch.ones(1)) for value in parameters.values())
    assert opened == [str(path)]


def test_a_folder_that_is_a_link_is_written_through_and_only_there(tmp_path):
    """Who gives a link as the directory means the folder behind it."""
    real = tmp_path / "real"
    real.mkdir()
    (tmp_path / "link").symlink_to(real)
    manager = CheckpointManager(tmp_path / "link", nn.Linear(1, 1), prefix="net")
    manager.start()
    manager.save(Moment(1, 1, 1))
    assert (real / "net-1_1.ckpt").is_file()
    assert {path.name for path in tmp_path.iterdir()} == {"real", "link"}


def test_a_link_at_a_checkpoints_name_is_replaced_not_followed(tmp_path):
    """A save cannot be led to another file."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / "a.ckpt").symlink_to(victim)
    save_checkpoint({"w": torch.ones(1)}, tmp_path / "a.ckpt")
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "a.ckpt").is_symlink()


@pytest.mark.parametrize("what", ["replaced", "removed", "renamed"])
def test_parameters_that_are_not_yet_read_stay_what_they_were(what, tmp_path):
    """Whatever happens to the name of an open file meanwhile."""
    path = save_checkpoint({"a": torch.ones(1000), "b": torch.full((1000,), 2.0)}, tmp_path / "a.ckpt")
    with load_checkpoint(path) as parameters:
        assert torch.equal(parameters["a"], torch.ones(1000))
        if what == "replaced":
            save_checkpoint({"a": torch.zeros(3)}, path)
        elif what == "removed":
            path.unlink()
        else:
            path.rename(tmp_path / "b.ckpt")
        assert torch.equal(parameters["b"], torch.full((1000,), 2.0))
        parameters.verify()
