"""The fuzz target: whatever a file holds, a load gives what is in it, or an error. What to change `forge` knows.

python fuzz/fuzz_ckpt.py --mutants 100000 --seed 0      needs nothing: changes the corpus at random, prints figures
python fuzz/fuzz_ckpt.py fuzz/corpus -max_len=65536     needs atheris: guided by coverage, with libFuzzer's options
"""

from __future__ import annotations

import argparse
import faulthandler
import json
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

with suppress(ImportError):  # must come before what it is to look into
    import atheris

    with atheris.instrument_imports(include=["milepost"]):
        import milepost.manager  # noqa: F401

import forge
import torch
from make_corpus import CORPUS, PREFIX, Net

from milepost.checkpoint.loading import load_param_into_net, open_checkpoint
from milepost.errors import MilepostError
from milepost.manager import CheckpointManager
from milepost.parameters import Parameters
from milepost.state.tensors import bytes_of
from milepost.storage.memory import MemoryStorage

NAME = f"{PREFIX}-1_2.ckpt"
HANG_SECONDS = 30


def attempt(action: Callable[[], Any]) -> Any:
    """Do it, or return the error of Milepost's that comes instead, once that says which file is meant."""
    try:
        return action()
    except MilepostError as error:
        failure = error
    assert NAME in str(failure), f"not told of which file: {failure}"
    return failure


def try_file(content: bytes, folder: Path | None = None) -> bool:
    """Do all that can be done with a file of this content.

    Args:
        content: The file's bytes.
        folder: Where to resume a training from the file, too.

    Returns:
        Whether it could be opened.

    Raises:
        AssertionError: What was read is not what is in the file; or a load failed, and had changed something.
        Exception: Any other than a `MilepostError` is a bug.
    """
    storage = MemoryStorage()
    storage.put(NAME, content)
    opened = attempt(lambda: open_checkpoint(storage, NAME))
    if not isinstance(opened, Parameters):
        return False
    with opened:
        for name in opened:
            _check_entry(opened, name, content)
        attempt(opened.verify)
        str(opened)
        for key in ("random", "random_at_epoch_start", "extra"):
            attempt(lambda key=key: opened.state(key))
        _check_load(lambda net, _: load_param_into_net(net, opened))
        _check_load(lambda _, optimizer: load_param_into_net(optimizer, opened))
        attempt(lambda: opened.select(lambda name: name.startswith("fc")))
    if folder is not None:
        (folder / NAME).write_bytes(content)
        for which in ("must", folder / NAME):
            _check_load(lambda *target, which=which: CheckpointManager(folder, *target, prefix=PREFIX).resume(which))
    return True


def _check_entry(opened: Parameters, name: str, content: bytes) -> None:
    value = attempt(lambda: opened[name])
    entry = opened._reader.entry(name)
    saved = b"".join(content[run.offset : run.offset + run.length] for run in entry.extents)
    if isinstance(value, torch.Tensor):
        assert (bytes_of(value).tobytes(), tuple(value.shape)) == (saved, entry.spec.shape), name
    elif isinstance(value, str):
        assert saved.decode("utf-32-le").rstrip("\0") == value, name


def _check_load(load: Callable[[Net, torch.optim.Optimizer], Any]) -> None:
    """Load into a fresh training; it is loaded, or it is as it was."""
    net = Net()
    optimizer = torch.optim.Adam(net.named_parameters(), lr=0.01)
    before = _state(net, optimizer)
    try:
        load(net, optimizer)
    except MilepostError:
        assert _state(net, optimizer) == before, "a load failed, and had changed something"


def _state(net: Net, optimizer: torch.optim.Optimizer) -> tuple[list[bytes], str]:
    tensors = [*net.parameters(), *net.buffers()]
    return [bytes_of(tensor.detach()).tobytes() for tensor in tensors], str(optimizer.state_dict())


def run_mutants(count: int, seed: int) -> dict[str, Any]:
    """Try so many changed files of the corpus.

    Returns:
        The figures: mutants, how many could be opened, the slowest in milliseconds of computing, and by how many MiB
        the process grew at its largest.
    """
    corpus = [path.read_bytes() for path in sorted(CORPUS.glob("*.ckpt"))]
    random = Random(seed)
    opened, slowest_seconds = 0, 0.0
    with tempfile.TemporaryDirectory(dir="/dev/shm" if os.path.isdir("/dev/shm") else None) as name:
        folder = Path(name)
        for content in corpus:  # all that is imported late is in memory before it is measured
            try_file(content, folder)
        before_kib = largest_kib()
        for number in range(count):
            content = forge.mutate(random.choice(corpus), random)
            faulthandler.dump_traceback_later(HANG_SECONDS, exit=True)
            begin = time.process_time()
            try:
                opened += try_file(content, folder if number % 4 == 0 else None)
            except BaseException:
                Path("mutant.ckpt").write_bytes(content)
                print(f"mutant {number} of seed {seed} is in mutant.ckpt", file=sys.stderr)
                raise
            finally:
                faulthandler.cancel_dump_traceback_later()
            slowest_seconds = max(slowest_seconds, time.process_time() - begin)
    after_kib = largest_kib()
    return {
        "mutants": count,
        "opened": opened,
        "slowest_ms": round(slowest_seconds * 1000, 1),
        "growth_mib": round((after_kib - before_kib) / 1024, 1),
    }


def largest_kib() -> int:
    """The most memory that this process ever had, in KiB; getrusage would count that of its parent too."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])


def guided(arguments: list[str]) -> None:
    """Let libFuzzer choose the mutants by what they reach, half of them made by `forge`."""

    def change(content: bytes, max_nbytes: int, seed: int) -> bytes:
        if seed % 2:
            return atheris.Mutate(content, max_nbytes)
        return forge.mutate(content, Random(seed))[:max_nbytes]

    atheris.Setup([sys.argv[0], *arguments], lambda content: try_file(content) and None, custom_mutator=change)
    atheris.Fuzz()


def main() -> None:
    """Fuzz as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, metavar="N", help="try N without atheris")
    parser.add_argument("--seed", type=int, default=0, help="which N")
    options, rest = parser.parse_known_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    if options.mutants is not None:
        print(json.dumps(run_mutants(options.mutants, options.seed)))
    elif "atheris" in globals():
        guided(rest)
    else:
        parser.error("atheris is not installed; with --mutants N it is not needed")


if __name__ == "__main__":
    main()
