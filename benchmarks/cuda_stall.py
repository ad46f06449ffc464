"""Are saves beside a training on a GPU right, and what do they cost? `python -m benchmarks.cuda_stall` where one is.

First each mode saves a small training while other streams are busy, and the files are compared with what the parameters
were. Then a training of 10 GB of state takes steps with and without lazy saves, in turns.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Literal

import torch
from torch import nn

from milepost import CheckpointConfig, CheckpointManager, load_checkpoint
from milepost.moment import Moment

LIMIT = 0.02
"""Of a step: what a lazy save of 10 GB may cost."""

Mode = bool | Literal["copied", "lazy"]


class Training:
    """A network of linear layers on the GPU, with Adam's moments: 12 bytes for each parameter.

    Args:
        folder: Where to save.
        mode: As `CheckpointConfig.async_save`.
        width: Inputs and outputs of each layer.
        layers: How many.
    """

    def __init__(self, folder: Path, mode: Mode, width: int, layers: int) -> None:
        torch.manual_seed(1)
        self.net = nn.Sequential(*[nn.Linear(width, width) for _ in range(layers)], nn.BatchNorm1d(width)).cuda()
        self.optimizer = torch.optim.Adam(self.net.parameters(), fused=True)
        self._batch = torch.randn(4096, width, device="cuda")
        config = CheckpointConfig(async_save=mode, keep_checkpoint_max=2)
        self.manager = CheckpointManager(folder, self.net, self.optimizer, config=config)
        self.manager.start()
        self.count = 0
        for _ in range(3):
            self.step()

    def step(self) -> None:
        """One step, as far as the host has to do with it."""
        self.optimizer.zero_grad()
        self.net(self._batch).square().mean().backward()
        self.optimizer.step()
        self.count += 1

    def save(self) -> Path:
        """Begin a save."""
        return self.manager.save(Moment(1, self.count, self.count))


def check(folder: Path) -> None:
    """Compare files with what was on the device when they were begun, steps behind them being under way."""
    for mode in (False, "copied", "lazy"):
        training = Training(folder / str(mode), mode, 2048, 8)
        for _ in range(5):
            training.step()
            expected = {name: tensor.clone() for name, tensor in training.net.state_dict().items()}
            path = training.save()
            training.step()
            training.step()
            training.manager.wait()
            saved = load_checkpoint(path)
            for name, tensor in expected.items():
                if not torch.equal(torch.as_tensor(saved[name]), tensor.cpu()):
                    raise SystemExit(f"async_save={mode!r}: {name} is not what it was")
        training.manager.close()
        print(f"async_save={mode!r}: right")


def measure(folder: Path, gigabytes: float, rounds: int, steps: int = 20) -> None:
    """Print what a lazy save costs, beside the noise of loops without one."""
    width = 8192
    training = Training(folder, "lazy", width, max(1, round(gigabytes * 1e9 / 12 / width**2)))
    taken: dict[bool, list[float]] = {False: [], True: []}
    blocked, first = [], 0.0
    for number in range(rounds + 1):
        for is_saved in (False, True):
            torch.cuda.synchronize()
            began = time.perf_counter()
            training.step()
            called = time.perf_counter()
            if is_saved:
                training.save()
            returned = time.perf_counter()
            for _ in range(steps - 1):
                training.step()
            torch.cuda.synchronize()
            seconds = time.perf_counter() - began
            training.manager.wait()
            if number:
                taken[is_saved].append(seconds)
                blocked += [returned - called] * is_saved
            elif is_saved:  # it takes the pinned memory
                first = returned - called
    step = statistics.median(taken[False]) / steps
    lost = statistics.median(a - b for a, b in zip(taken[True], taken[False], strict=True))
    print(f"{torch.cuda.get_device_name()}, {gigabytes} GB, steps of {1e3 * step:.1f} ms: a lazy save costs")
    print(f"{100 * lost / step:.1f} % of a step (at most {100 * LIMIT:g} %), {1e3 * lost:.1f} ms;")
    print(f"the call blocks for {1e3 * statistics.median(blocked):.1f} ms, the first for {1e3 * first:.0f} ms;")
    written = training.manager.stats.total.background_seconds / training.manager.stats.saved
    print(f"beside the training a save goes on for {written:.1f} s")
    training.manager.close()


def main() -> None:
    """Check, then measure."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.cuda_stall", description=__doc__)
    parser.add_argument("--gigabytes", type=float, default=10.0, help="of state")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--folder", type=Path, default=Path.cwd(), help="on the disk that is meant")
    given = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("there is no GPU here")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=given.folder) as folder:
        check(Path(folder))
        measure(Path(folder) / "large", given.gigabytes, given.rounds)


if __name__ == "__main__":
    main()
