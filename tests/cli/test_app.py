"""The command line as a whole: exit codes, one line for each error, pipes, interrupts, and what it imports."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from milepost.cli.app import COMMANDS

PROGRAM = [sys.executable, "-m", "milepost"]


def test_every_command_has_a_help_with_an_example(milepost):
    """And the group's help has a line for each."""
    overview = milepost("--help").out
    for command in COMMANDS:
        done = milepost(command, "--help")
        assert (done.code, done.err) == (0, "")
        assert f"\n    milepost {command} " in done.out
        assert "--json" in done.out
        assert f"\n  {command} " in overview


ARGUMENTS = {
    "ls": ["{}"],
    "inspect": ["{}"],
    "show": ["{}", "head.weight"],
    "verify": ["{}"],
    "diff": ["{}", "{}"],
    "convert": ["{}", "out.ckpt"],
    "average": ["{}", "{}", "--output=soup.ckpt"],
    "export": ["{}", "{}", "--output=net.onnx"],
    "prune": ["{}", "--keep-last=1"],
}
"""Command to arguments, with {} for the file or folder that is wrong."""


@pytest.mark.parametrize("command", COMMANDS)
def test_bad_input_is_one_line_and_exit_code_2(milepost, tmp_path, command):
    """Where, what, remedy; never a traceback."""
    missing = str(tmp_path / "missing.ckpt")
    for arguments in (ARGUMENTS[command], [*ARGUMENTS[command], "--no-such-option"]):
        done = milepost(command, *[each.replace("{}", missing) for each in arguments])
        assert done.code == 2
        assert len((done.err or done.out).splitlines()) == 1
        assert "missing.ckpt" in done.err + done.out or "--no-such-option" in done.err


@pytest.mark.parametrize("command", COMMANDS)
def test_a_damaged_file_is_one_line(milepost, damaged, tmp_path, monkeypatch, command):
    """Exit code 1 from `verify`, 2 from those that need the content; what looks at the index alone does not see it."""
    monkeypatch.chdir(tmp_path)
    before = damaged.read_bytes()
    place = damaged.parent if command in ("ls", "prune") else damaged
    arguments = [each.replace("{}", str(place)) for each in ARGUMENTS[command]]
    if command in ("diff", "average"):
        arguments[0] = str(damaged.with_name("net-1_2.ckpt"))
    if command == "export":
        arguments[0] = "some_model:example"
        (tmp_path / "some_model.py").write_text(
            "import torch\n"
            "def example():\n    return torch.nn.ModuleDict({'head': torch.nn.Linear(8, 2)}), torch.ones(1)\n"
        )
    done = milepost(command, *arguments)
    assert done.code == {"ls": 0, "inspect": 0, "prune": 0, "verify": 1}.get(command, 2)
    if done.code:
        assert len((done.err or done.out).splitlines()) == 1
        assert "head.weight" in done.err + done.out
    assert damaged.read_bytes() == before
    assert not {path.name for path in tmp_path.iterdir()} & {"soup.ckpt", "net.onnx", "out.ckpt"}


def test_a_name_in_an_error_cannot_steer_the_terminal(milepost, tmp_path):
    """Error lines are clean too."""
    done = milepost("inspect", tmp_path / "a\x1b[2J\nb.ckpt")
    assert "\x1b" not in done.err
    assert len(done.err.splitlines()) == 1


def test_a_folder_that_may_not_be_read_is_one_line(milepost, tmp_path, monkeypatch):
    """The system's own words, and where."""

    def refuse(directory):
        raise PermissionError(13, "Permission denied", str(directory))

    monkeypatch.setattr(os, "scandir", refuse)
    done = milepost("ls", tmp_path)
    assert done.code == 2
    assert done.err == f"milepost: {tmp_path}: Permission denied. Check the path and the rights of this user.\n"


def test_without_arguments_the_help_is_shown(milepost):
    """It is wrong usage all the same."""
    done = milepost()
    assert done.code == 2
    assert "Commands:" in done.err


def test_the_extra_is_named_where_it_is_missing():
    """One line."""
    code = "import sys; sys.modules['click'] = None; from milepost.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "milepost[cli]"' in done.stderr


@pytest.mark.parametrize(
    "arguments", [["ls", "{}"], ["inspect", "{}/net-1_2.ckpt"], ["verify", "{}"], ["prune", "{}", "--keep-last=1"]]
)
def test_torch_is_not_imported_to_look_at_files(runs, arguments):
    """Nor NumPy: these commands start at once."""
    arguments = [each.replace("{}", str(runs)) for each in arguments]
    code = "import sys; from milepost.cli.app import run; assert run(sys.argv[1:]) == 0; "
    code += "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_pipe_that_is_closed_early_ends_it_without_a_word(runs):
    """As with any other tool: `milepost inspect ... | head`."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    command = [*PROGRAM, "inspect", "--all", str(runs / "net-1_2.ckpt")]
    done = subprocess.run(command, stdout=write_end, stderr=subprocess.PIPE, check=False)
    os.close(write_end)
    assert (done.returncode, done.stderr) == (141, b"")


def test_an_interrupt_ends_it_without_a_traceback(tmp_path):
    """Here while it waits for a pipe in the place of its file."""
    code = "import os, signal; from milepost.cli import ls\n"
    # A shell lets what it begins in the background ignore interrupts, and children inherit that.
    code += "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "ls.survey = lambda storage: os.kill(os.getpid(), signal.SIGINT)\n"
    code += "from milepost.cli.app import run; import sys; sys.exit(run(['ls']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr.strip(), done.stdout) == (130, "", "")


def on_a_terminal(*arguments: str, **environment: str) -> str:
    """What a command prints on a terminal of 100 columns."""
    terminal, end = pty.openpty()
    environ = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment}
    child = subprocess.Popen([*PROGRAM, *arguments], stdout=end, stderr=end, stdin=end, env=environ)
    os.close(end)
    output = b""
    while True:
        try:
            block = os.read(terminal, 4096)
        except OSError:
            break
        if not block:
            break
        output += block
    os.close(terminal)
    child.wait()
    return output.decode()


def test_colour_and_bars_are_for_terminals(milepost, runs):
    """In a pipe there are none, and lines are not cut; NO_COLOR is respected."""
    assert "\x1b[1m" in on_a_terminal("ls", str(runs))
    assert "\x1b[32m" in on_a_terminal("ls", str(runs))
    assert "\x1b[32m" not in on_a_terminal("ls", str(runs), NO_COLOR="1")
    assert "verifying" in on_a_terminal("verify", str(runs))
    piped = milepost("verify", runs)
    assert "verifying" not in piped.out + piped.err
    assert "\x1b" not in piped.out + milepost("ls", runs).out


@pytest.mark.parametrize(
    ("word", "arguments"),
    [
        ("verifying", ["verify", "runs"]),
        ("comparing", ["diff", "runs/net-1_2.ckpt", "runs/net-2_2.ckpt"]),
        ("converting", ["convert", "runs/net-1_2.ckpt", "a.safetensors"]),
        ("averaging", ["average", "runs/net-1_2.ckpt", "runs/net-2_2.ckpt", "-o", "soup.ckpt"]),
    ],
)
def test_long_work_has_a_bar_on_a_terminal_and_none_in_a_pipe(milepost, runs, tmp_path, monkeypatch, word, arguments):
    """Of bytes, which come to their total; that of a verification is the files', whose contents are most of them."""
    monkeypatch.chdir(tmp_path)
    bars = re.findall(rf"{word}.*?([\d.]+)/([\d.]+) \w+", on_a_terminal(*arguments))
    assert bars
    done, total = map(float, bars[-1])
    assert 0 < done <= total
    assert done == total or word == "verifying"
    for path in ("a.safetensors", "soup.ckpt"):
        (tmp_path / path).unlink(missing_ok=True)
    piped = milepost(*arguments)
    assert word not in piped.out + piped.err


def test_completion_is_there():
    """As docs/cli.md says."""
    environ = {**os.environ, "_MILEPOST_COMPLETE": "bash_source"}
    done = subprocess.run([*PROGRAM], env=environ, capture_output=True, text=True, check=False)
    assert "_MILEPOST_COMPLETE=bash_complete" in done.stdout
