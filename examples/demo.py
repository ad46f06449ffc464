"""The story of Milepost on handwritten digits: train, be killed, go on, evaluate, infer, fine-tune, look at the files.

Run it with ``python examples/demo.py``. Network and data are not defined here.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import signal
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from digits import IdxError, create_dataset
from milepost import (
    Callback,
    CheckpointConfig,
    Model,
    ModelCheckpoint,
    ProgressBar,
    RunContext,
    load_checkpoint,
    load_param_into_net,
    save_checkpoint,
)
from milepost.nn import Momentum, SoftmaxCrossEntropyWithLogits
from resnet50 import ResNet50

BATCH_SIZE = 32
LEARNING_RATE = 0.005
PREFIX = "resnet50"
KILLED_IN_EPOCH = 2
NEW_TASK = range(5)


class StoryError(Exception):
    """Something that this story promises did not happen."""


@dataclass(frozen=True)
class Settings:
    """What the command line says: see `parse_arguments`."""

    mnist: Path | None
    directory: Path
    epochs: int
    images: int
    accuracy: float


def main() -> int:
    """Tell the story; return the exit code."""
    settings = parse_arguments()
    started = time.monotonic()
    torch.manual_seed(1)
    try:
        training_data(settings)  # what is wrong with the data is better said here than by a process that dies of it
        train_until_killed(settings)
        network, checkpoint = go_on(settings)
        evaluate(settings, network)
        infer(settings, network, checkpoint)
        fine_tune(settings, checkpoint)
        list_files(settings, checkpoint)
    except (StoryError, IdxError, FileNotFoundError) as error:
        print(f"\nThe story does not hold: {error}", file=sys.stderr)
        return 1
    print(f"\nAll of it held, in {time.monotonic() - started:.0f} s.")
    return 0


def train_until_killed(settings: Settings) -> None:
    """Let a process train, and kill it in the middle of the second epoch."""
    announce(1, "Training in a process of its own, which is killed in the middle of an epoch.")
    context = multiprocessing.get_context("spawn")
    reports, sender = context.Pipe(duplex=False)
    child = context.Process(target=train, args=(settings, sender), daemon=True)
    child.start()
    sender.close()  # only the child's end stays open, so that the reports end when the child does
    epoch = step = steps_per_epoch = 0
    try:
        while epoch < KILLED_IN_EPOCH or step < steps_per_epoch * 3 // 4:
            epoch, step, steps_per_epoch = reports.recv()
    except EOFError:
        child.join()
        raise StoryError(f"the training ended by itself, with exit code {child.exitcode}") from None
    child.kill()
    child.join()
    print("\033[?25h" if sys.stdout.isatty() else "")  # a progress bar that is killed leaves the cursor hidden
    expect(child.exitcode == -signal.SIGKILL, f"the training ended with exit code {child.exitcode}, not by SIGKILL")
    print(f"Killed by signal {signal.SIGKILL:d} (SIGKILL) in epoch {epoch}, after step {step} of {steps_per_epoch}.")


def train(settings: Settings, reports: Connection) -> None:
    """Train from the start; this runs in the child."""
    torch.manual_seed(1)
    dataset = training_data(settings)
    callbacks = [CosineDecay(), new_saver(settings, len(dataset)), ProgressBar(), Report(reports)]
    new_model(ResNet50()).train(settings.epochs, dataset, callbacks=callbacks)


class Report(Callback):
    """Sends after each step, and what was saved after it, where the training stands."""

    def __init__(self, reports: Connection) -> None:
        self._reports = reports

    def step_end(self, run_context: RunContext) -> None:
        params = run_context.original_args()
        self._reports.send((params.cur_epoch_num, params.cur_step_in_epoch, params.batch_num))


class CosineDecay(Callback):
    """Lowers the learning rate along half a cosine to 0, so that weights and batch statistics settle.

    The rate follows from the step's number alone: a training that goes on does so with the right one.

    Source: Loshchilov and Hutter, SGDR (https://arxiv.org/abs/1608.03983), without restarts.
    """

    def on_train_step_begin(self, run_context: RunContext) -> None:
        params = run_context.original_args()
        assert params.optimizer is not None
        assert params.batch_num is not None
        share_done = (params.cur_step_num - 1) / (params.epoch_num * params.batch_num)
        for group in params.optimizer.param_groups:
            group["lr"] = LEARNING_RATE * (1 + math.cos(math.pi * share_done)) / 2


def go_on(settings: Settings) -> tuple[ResNet50, Path]:
    """Train from the newest checkpoint to the end; return the network and the last checkpoint."""
    announce(2, "Starting again: resume='auto' goes on from the newest checkpoint, exactly where it stood.")
    newest = max(settings.directory.glob(f"{PREFIX}*.ckpt"), key=lambda path: path.stat().st_mtime)
    saved = load_checkpoint(newest).metadata
    print(f"The newest checkpoint is {newest.name}: epoch {saved['epoch']}, step {saved['step']}.")
    network, dataset = ResNet50(), training_data(settings)
    saver, start = new_saver(settings, len(dataset)), Start()
    callbacks = [CosineDecay(), saver, start, ProgressBar()]
    new_model(network).train(settings.epochs, dataset, callbacks=callbacks, resume="auto")
    expect(start.global_step == saved["global_step"], f"it went on after step {start.global_step} of all epochs")
    return network, Path(saver.latest_ckpt_file_name or "")


class Start(Callback):
    """Notes where a training begins, and says it."""

    global_step = 0

    def begin(self, run_context: RunContext) -> None:
        params = run_context.original_args()
        self.global_step = params.cur_step_num
        print(f"Going on in epoch {params.cur_epoch_num} after step {params.cur_step_in_epoch}.")


def evaluate(settings: Settings, network: ResNet50) -> None:
    """Measure the trained network on images that it has not seen."""
    announce(3, "Evaluating on digits that the training never saw: what the interrupted training has learned.")
    report_accuracy("Accuracy", new_model(network).eval(unseen_data(settings)), at_least=settings.accuracy)


def infer(settings: Settings, network: ResNet50, checkpoint: Path) -> None:
    """Load the checkpoint into a fresh network and let it read some digits."""
    announce(4, f"Inference: {checkpoint.name} makes a fresh network the one that was trained.")
    fresh = ResNet50()
    print(load_checkpoint(checkpoint, net=fresh).report)
    images, labels = next(iter(unseen_data(settings)))
    logits = Model(fresh).predict(images)
    expect(torch.equal(logits, Model(network).predict(images)), "the loaded network is not the trained one")
    print("true      ", *labels[:20].tolist())
    print("predicted ", *logits.argmax(dim=1)[:20].tolist())


def fine_tune(settings: Settings, checkpoint: Path) -> None:
    """Train a network with a new head from the checkpoint's other layers, and save it."""
    announce(5, f"Fine-tuning on another task, the digits 0 to {NEW_TASK[-1]}: all is loaded but the head, `fc`.")
    network = ResNet50(num_classes=len(NEW_TASK))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "(?s).* were not loaded")  # the report, printed here, says so
        print(load_param_into_net(network, load_checkpoint(checkpoint, filter_prefix="fc")))
    model, unseen = new_model(network), unseen_data(settings, NEW_TASK)
    report_accuracy("Accuracy before", model.eval(unseen))
    model.train(1, training_data(settings, NEW_TASK), callbacks=[CosineDecay(), ProgressBar()])
    report_accuracy("Accuracy after one epoch", model.eval(unseen), at_least=settings.accuracy)
    save_checkpoint(network, settings.directory / f"{run_of(checkpoint)}-finetuned.ckpt", {"classes": len(NEW_TASK)})


def list_files(settings: Settings, checkpoint: Path) -> None:
    """Say which files of this run stand in the folder."""
    announce(6, f"The files of this run in {settings.directory}, and what each is.")
    for path in sorted(settings.directory.glob(f"{run_of(checkpoint)}-*"), key=lambda path: path.stat().st_mtime):
        print(f"{path.name:<24} {path.stat().st_size / 1e6:7.1f} MB  {what_is(path)}")


def what_is(path: Path) -> str:
    if path.suffix == ".meta":
        return "the network's graph; with a .ckpt beside it, the whole model"
    saved = load_checkpoint(path).metadata
    if "epoch" not in saved:
        return "the fine-tuned network"
    return f"network, optimizer, progress and random state: epoch {saved['epoch']}, step {saved['step']}"


def run_of(checkpoint: Path) -> str:
    return checkpoint.name.rpartition("-")[0]


def new_model(network: ResNet50) -> Model:
    optimizer = Momentum(network.parameters(), learning_rate=LEARNING_RATE, momentum=0.9)
    return Model(network, SoftmaxCrossEntropyWithLogits(), optimizer)


def new_saver(settings: Settings, steps_per_epoch: int) -> ModelCheckpoint:
    config = CheckpointConfig(save_checkpoint_steps=steps_per_epoch // 2, keep_checkpoint_max=3)
    return ModelCheckpoint(PREFIX, settings.directory, config)


def training_data(settings: Settings, classes: Sequence[int] = range(10)) -> DataLoader[tuple[Tensor, ...]]:
    return create_dataset(settings.mnist, BATCH_SIZE, train=True, classes=classes, limit=settings.images)


def unseen_data(settings: Settings, classes: Sequence[int] = range(10)) -> DataLoader[tuple[Tensor, ...]]:
    return create_dataset(settings.mnist, BATCH_SIZE, train=False, classes=classes)


def report_accuracy(title: str, metrics: dict[str, float], *, at_least: float = 0.0) -> None:
    print(f"{title}: {metrics['accuracy']:.1%} (loss {metrics['loss']:.3f}).")
    expect(metrics["accuracy"] >= at_least, f"an accuracy of at least {at_least:.1%} was expected")


def announce(number: int, what: str) -> None:
    print(f"\n{number}. {what}", flush=True)


def expect(is_so: bool, otherwise: str) -> None:
    if not is_so:
        raise StoryError(otherwise)


def parse_arguments() -> Settings:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    add = parser.add_argument
    add("--mnist", type=Path, metavar="FOLDER", help="where MNIST's four IDX files are (else scikit-learn's digits)")
    add("--directory", type=Path, default=Path("runs/demo"), help="where to save (default: %(default)s)")
    add("--epochs", type=int, default=5, help="epochs to train, 2 or more (default: %(default)s)")
    add("--images", type=int, default=4096, help="digits to train on at most, 256 or more (default: %(default)s)")
    add("--accuracy", type=float, default=0.9, help="the accuracy to insist on (default: %(default)s)")
    settings = Settings(**vars(parser.parse_args()))
    if settings.epochs < KILLED_IN_EPOCH or settings.images < 8 * BATCH_SIZE:
        parser.error("too short a training to kill in its middle")
    return settings


if __name__ == "__main__":
    sys.exit(main())
