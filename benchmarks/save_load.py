"""Saving and loading a state: through the page cache, durably, into a live module, one tensor of it; against peers."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import torch
from safetensors import safe_open

import milepost
from benchmarks import peers, raw, workloads
from benchmarks.harness import Options, Section, Table, Target, Way, measure
from benchmarks.workloads import Live, Workload

OURS = "**milepost**"
SAFETENSORS, TORCH, MAPPED, DCP, MINDSPORE = (
    "safetensors",
    "torch.save, torch.load",
    "torch.load(mmap=True)",
    "torch.distributed.checkpoint",
    "MindSpore",
)
GATHERED, SYNCED, DIRECT, READ = (
    "raw: gathered write",
    "raw: gathered write, fsync",
    "raw: O_DIRECT write, fsync",
    "raw: read into a buffer",
)
SLOW_ROUNDS = 2
"""Rounds of what takes so long that more of them would be all that is done."""


def run(options: Options) -> Section:
    """Measure both workloads."""
    small = options.is_quick
    parts = [
        _State(options, workloads.resnet50(is_small=small), 9).measured(),
        _State(options, workloads.transformer(is_small=small), 5).measured(),
    ]
    tables = [table for some, _ in parts for table in some]
    targets = [target for _, some in parts for target in some]
    return Section("Saving and loading", tables, targets)


def run_tiny(options: Options) -> Section:
    """Measure many small tensors."""
    tables, targets = _Tiny(options, workloads.tiny(is_small=options.is_quick), 7).measured()
    return Section("Many small tensors", tables, targets)


class _Suite:
    """A workload, and the files that it is written to, each way its own."""

    def __init__(self, options: Options, workload: Workload, rounds: int) -> None:
        self._folder = options.folder
        self._workload = workload
        self._rounds = options.rounds(rounds)
        self._slow_rounds = min(self._rounds, SLOW_ROUNDS)

    def _way(
        self, name: str, act: Callable[[Path], object], rounds: int | None = None, *, has_memory: bool = True
    ) -> Way:
        """A way to write: to a new file, after those of the others are gone."""
        path = self._folder / "file.ckpt"
        return Way(name, partial(act, path), self._clear, has_memory=has_memory, rounds=rounds)

    def _clear(self) -> None:
        # Pages of a file that is gone are not written back: nobody pays for another. The sync gives its room back, and
        # leaves the disk with nothing to do.
        for path in self._folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        os.sync()

    def _table(self, what: str, base: str, ways: list[Way]) -> Table:
        return Table(f"{what}: {self._workload}", base, measure(ways, self._rounds))

    def _save(self, path: Path, *, durable: bool) -> None:
        milepost.save_checkpoint(self._workload.state, path, durable=durable)


class _State(_Suite):
    """A network with its optimizer's moments."""

    def measured(self) -> tuple[list[Table], list[Target]]:
        with ExitStack() as stack:
            self._mindspore = peers.mindspore(self._workload)
            if self._mindspore is not None:
                stack.callback(self._mindspore.close)
            saved, durable = self._saves(), self._durable_saves()
            self._clear()
            loaded, taken = self._loads(), self._takes()
        return [saved, durable, loaded, taken], self._targets(saved, durable, loaded, taken)

    def _saves(self) -> Table:
        state, contents = self._workload, raw.views(self._workload)
        ways = [
            self._way(GATHERED, partial(_gather, contents)),
            self._way(OURS, partial(self._save, durable=False)),
            self._way(SAFETENSORS, partial(peers.save_safetensors, state)),
            self._way(TORCH, partial(torch.save, state.state)),
            self._way(DCP, partial(peers.save_dcp, state), self._slow_rounds),
        ]
        if self._mindspore is not None:
            ways.append(self._way(MINDSPORE, self._mindspore.save, self._slow_rounds, has_memory=False))
        return self._table("Save to the page cache", GATHERED, ways)

    def _durable_saves(self) -> Table:
        state, contents = self._workload, raw.views(self._workload)

        def synced(save: Callable[[Path], object], path: Path) -> None:
            save(path)
            peers.fsync(path)

        ways = [
            self._way(SYNCED, partial(_gather, contents, fsync=True)),
            self._way(DIRECT, raw.DirectWrite(state.nbytes), has_memory=False),
            self._way(OURS, partial(self._save, durable=True)),
            self._way(SAFETENSORS, partial(synced, partial(peers.save_safetensors, state))),
            self._way(TORCH, partial(synced, partial(torch.save, state.state)), self._slow_rounds),
            self._way(DCP, partial(peers.save_dcp, state, sync_files=True), self._slow_rounds),
        ]
        if self._mindspore is not None:
            mindspore = partial(self._mindspore.save, is_durable=True)
            ways.append(self._way(MINDSPORE, mindspore, self._slow_rounds, has_memory=False))
        return self._table("Durable save", SYNCED, ways)

    def _loads(self) -> Table:
        state, live = self._workload, Live(self._workload.state)
        ours, theirs, torchs, dcps = (self._folder / name for name in ("a.ckpt", "a.safetensors", "a.pt", "a.dcp"))
        self._save(ours, durable=False)
        peers.save_safetensors(state, theirs)
        torch.save(state.state, torchs)
        peers.save_dcp(state, dcps)
        buffer = torch.empty(ours.stat().st_size, dtype=torch.uint8).zero_()
        view, other = raw.view(buffer), torch.empty_like(buffer).zero_()
        ways = [
            Way(READ, partial(raw.read, ours, view)),
            Way("raw: memcpy", partial(other.copy_, buffer)),
            Way(OURS, partial(milepost.load_checkpoint, ours, net=live)),
            Way(SAFETENSORS, partial(peers.load_safetensors, live, theirs)),
            Way(TORCH, partial(peers.load_torch, live, torchs)),
            Way(MAPPED, partial(peers.load_torch, live, torchs, mmap=True)),
            Way(DCP, partial(peers.load_dcp, live, dcps), rounds=self._slow_rounds),
        ]
        if self._mindspore is not None:
            foreign = self._folder / "mindspore.ckpt"
            self._mindspore.save(foreign)
            ways.append(Way(f"{OURS}, MindSpore's file", partial(milepost.load_checkpoint, foreign, net=live)))
            load = partial(self._mindspore.load, foreign)
            ways.append(Way(MINDSPORE, load, has_memory=False, rounds=self._slow_rounds))
        return self._table("Load into a live module", READ, ways)

    def _takes(self) -> Table:
        ours, theirs = self._folder / "a.ckpt", self._folder / "a.safetensors"
        name = min(self._workload.state, key=lambda name: abs(self._workload.state[name].numel() - 1024))

        def take_ours() -> object:
            with milepost.load_checkpoint(ours) as opened:
                return len(list(opened)), opened[name]

        def take_theirs() -> object:
            with safe_open(theirs, "pt") as opened:
                return len(list(opened.keys())), opened.get_tensor(name)

        ways = [Way(OURS, take_ours), Way(SAFETENSORS, take_theirs)]
        return self._table("Open, list, take one tensor of some KB", OURS, ways)

    def _targets(self, saved: Table, durable: Table, loaded: Table, taken: Table) -> list[Target]:
        what = self._workload.name
        is_large = what.startswith("transformer")
        targets = [
            Target(f"{what}: save to the page cache / gathered write", 1.25, saved.ratio(OURS)),
            Target(f"{what}: save to the page cache / safetensors", 0.9, saved.ratio(OURS, SAFETENSORS)),
            Target(f"{what}: save to the page cache / torch.save", 0.5, saved.ratio(OURS, TORCH)),
        ]
        if is_large:
            targets += [
                Target(f"{what}: durable save / O_DIRECT write", 1.2, durable.ratio(OURS, DIRECT)),
                Target(f"{what}: durable save / safetensors and fsync", 0.5, durable.ratio(OURS, SAFETENSORS)),
            ]
        else:
            targets.append(Target(f"{what}: durable save / gathered write and fsync", 1.1, durable.ratio(OURS)))
        targets.append(Target(f"{what}: load into a live module / read into a buffer", 1.4, loaded.ratio(OURS)))
        if not is_large:
            targets += [
                Target(f"{what}: load into a live module / safetensors", 0.6, loaded.ratio(OURS, SAFETENSORS)),
                Target(f"{what}: load into a live module / torch.load", 0.3, loaded.ratio(OURS, TORCH)),
            ]
        if self._mindspore is not None:
            targets.append(Target(f"{what}: save / MindSpore", 0.4, saved.ratio(OURS, MINDSPORE)))
            if not is_large:
                targets.append(Target(f"{what}: load / MindSpore", 0.15, loaded.ratio(OURS, MINDSPORE)))
        else:
            targets.append(Target(f"{what}: MindSpore is not installed", 0, float("inf")))
        if is_large:
            targets.append(_time("open, list, take one of 1.5 GB", 10, taken))
        targets += [_memory(f"{what}: save", durable), _memory(f"{what}: load into a live module", loaded)]
        return targets


class _Tiny(_Suite):
    """Many small tensors."""

    def measured(self) -> tuple[list[Table], list[Target]]:
        saved = self._saves()
        self._clear()
        ours, theirs, torchs = (self._folder / name for name in ("a.ckpt", "a.safetensors", "a.pt"))
        self._save(ours, durable=False)
        peers.save_safetensors(self._workload, theirs)
        torch.save(self._workload.state, torchs)
        loaded, opened = self._loads(ours, theirs, torchs), self._opens(ours, theirs)
        what = self._workload.name
        return [saved, loaded, opened], [
            Target(f"{what}: save / safetensors", 1.0, saved.ratio(OURS, SAFETENSORS)),
            Target(f"{what}: load / safetensors", 1.0, loaded.ratio(OURS, SAFETENSORS)),
            _time(f"{what}: open, list, take one of 20,000", 100, opened),
        ]

    def _saves(self) -> Table:
        state, contents = self._workload, raw.views(self._workload)
        ways = [
            self._way(GATHERED, partial(_gather, contents)),
            self._way(OURS, partial(self._save, durable=False)),
            self._way(SAFETENSORS, partial(peers.save_safetensors, state)),
            self._way(TORCH, partial(torch.save, state.state)),
        ]
        return self._table("Save to the page cache", SAFETENSORS, ways)

    def _loads(self, ours: Path, theirs: Path, torchs: Path) -> Table:
        def load_ours() -> object:
            with milepost.load_checkpoint(ours) as opened:
                return dict(opened.items())

        ways = [
            Way(OURS, load_ours),
            Way(SAFETENSORS, partial(peers.read_safetensors, theirs)),
            Way(TORCH, partial(torch.load, torchs, weights_only=True)),
        ]
        return self._table("Load all by name", SAFETENSORS, ways)

    def _opens(self, ours: Path, theirs: Path) -> Table:
        name = list(self._workload.state)[len(self._workload.state) // 2]

        def open_ours() -> object:
            with milepost.load_checkpoint(ours) as opened:
                return list(opened), opened[name]

        def open_theirs() -> object:
            with safe_open(theirs, "pt") as opened:
                return list(opened.keys()), opened.get_tensor(name)

        return self._table("Open, list, take one", SAFETENSORS, [Way(OURS, open_ours), Way(SAFETENSORS, open_theirs)])


def _gather(contents: list[memoryview], path: Path, *, fsync: bool = False) -> None:
    raw.gathered_write(path, contents, fsync=fsync)
    if fsync:
        descriptor = os.open(path.parent, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def _time(what: str, milliseconds: float, table: Table) -> Target:
    return Target(what, milliseconds, 1e3 * table.results[OURS].seconds, "ms")


def _memory(what: str, table: Table) -> Target:
    return Target(f"{what}, extra memory", 32, table.results[OURS].extra_nbytes / 2**20, "MiB")
