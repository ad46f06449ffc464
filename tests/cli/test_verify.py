"""`milepost verify`, and the function of that name."""

from __future__ import annotations

import pytest

from milepost import verify


def test_sound_files_are_sound(milepost, runs):
    """Every checkpoint of a folder is read: also the best's other name."""
    done = milepost("verify", runs, "--json")
    assert done.code == 0
    assert {each["verdict"] for each in done.json["files"]} == {"sound"}
    assert len(done.json["files"]) == 7
    assert all(each["has_checksums"] for each in done.json["files"])
    assert milepost("verify", runs).out.splitlines()[-1].endswith(": 7 sound")


def test_damage_is_found_and_named(milepost, damaged):
    """Exit code 1, and the entry."""
    done = milepost("verify", damaged.parent, "--json")
    (found,) = [each for each in done.json["files"] if each["verdict"] != "sound"]
    assert (done.code, found["file"], found["verdict"]) == (1, str(damaged), "unsound")
    assert "head.weight" in found["error"]["where"]
    done = milepost("verify", damaged)
    assert done.code == 1
    assert done.out.startswith(f"UNSOUND   {damaged}, entry 'head.weight': found content with the checksum")


@pytest.mark.parametrize("nbytes", [0, 10, 1000, -1])
def test_a_file_that_was_cut_short_is_damage(milepost, runs, nbytes):
    """Whatever is left of it."""
    path = runs / "net-1_2.ckpt"
    path.write_bytes(path.read_bytes()[:nbytes])
    assert milepost("verify", path).code == 1


def test_every_flipped_bit_between_the_contents_is_found_too(milepost, runs, place_of):
    """The head before a content is no content."""
    path = runs / "net-1_2.ckpt"
    content = bytearray(path.read_bytes())
    content[place_of(path, "head.weight") - 3] ^= 1
    path.write_bytes(content)
    assert milepost("verify", path).code == 1


def test_what_is_missing_is_not_called_damaged(milepost, runs):
    """Exit code 2, after the others were checked; damage goes before it."""
    done = milepost("verify", runs / "none.ckpt", runs / "net-1_2.ckpt", "--json")
    assert (done.code, [each["verdict"] for each in done.json["files"]]) == (2, ["unread", "sound"])
    (runs / "net-1_2.ckpt").write_bytes(b"")
    assert milepost("verify", runs / "none.ckpt", runs / "net-1_2.ckpt").code == 1


def test_a_folder_without_checkpoints_is_an_error(milepost, tmp_path):
    """A wrong path must not look like good news."""
    done = milepost("verify", tmp_path)
    assert (done.code, done.out) == (2, "")
    assert "no file that ends with .ckpt" in done.err


def test_it_is_a_function_too(damaged):
    """It tells of damage, and of the bytes as they are checked."""
    checked: list[int] = []
    verdicts = list(verify(damaged.parent, threads=2, on_checked=checked.append))
    assert [verdict.path for verdict in verdicts if verdict.error is not None] == [damaged]
    whole = sum(verdict.nbytes for verdict in verdicts)
    assert 0.5 * whole < sum(checked) < whole
