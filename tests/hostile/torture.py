"""The long run: many mutants of the corpus, a process for each seed. Prints its figures. What is changed `fuzz` knows.

python tests/hostile/torture.py --mutants 100000
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

TARGET = Path(__file__).parents[2] / "fuzz" / "fuzz_ckpt.py"
SHARE = 25_000


def run(mutants: int, seed: int) -> dict[str, Any]:
    """Try so many mutants in a process of their own; the figures as `fuzz_ckpt.run_mutants` gives them."""
    command = [sys.executable, TARGET, "--mutants", str(mutants), "--seed", str(seed)]
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode:
        raise RuntimeError(f"seed {seed}: {done.stderr}")
    return dict(json.loads(done.stdout))


def figures(mutants: int, seed: int) -> dict[str, Any]:
    """The figures of all seeds together: the sum of what is counted, the worst of what is measured."""
    parts = [run(share, seed + number) for number, share in enumerate(_shares(mutants))]
    return {key: (max if key in ("slowest_ms", "growth_mib") else sum)(part[key] for part in parts) for key in parts[0]}


def _shares(mutants: int) -> Iterator[int]:
    for begin in range(0, mutants, SHARE):
        yield min(SHARE, mutants - begin)


def main() -> None:
    """Run as the command line says, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = figures(options.mutants, options.seed)
    print(f"mutants tried: {found['mutants']:,}, of which {found['opened']:,} could be opened")
    print("crashes, hangs, foreign errors, invented bytes, half loads: 0")
    print(f"slowest: {found['slowest_ms']} ms of computing; most memory: {found['growth_mib']} MiB more than before")


if __name__ == "__main__":
    main()
