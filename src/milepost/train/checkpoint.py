"""`ModelCheckpoint`: the tutorial's callback, a thin face of `CheckpointManager`, which decides and does the work."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from milepost.catalog.names import check_prefix
from milepost.config import CheckpointConfig
from milepost.errors import MilepostError, SettingError, SettingTypeError, TrainingError
from milepost.manager import CheckpointManager, check_directory
from milepost.moment import Moment, Resumed
from milepost.train.lifecycle import Callback, CallbackParams, RunContext
from milepost.train.signals import SignalWatch


class ModelCheckpoint(Callback):
    """Saves a training: network, optimizer, progress and random state, one file per checkpoint.

    Files are called ``<prefix>-<epoch>_<step in epoch>.ckpt``; from the second run of a prefix on, ``<prefix>_2-...``,
    ``<prefix>_3-...``. Beside them stands ``<prefix>-graph.meta``, the computation graph, which needs the extra
    ``[onnx]``. The last step is always saved. A callback that is used for a second training starts that one as the next
    run; a resumed training goes on under the names of its run.

    Args:
        prefix: What the files' names begin with.
        directory: The folder, made when it is missing; the current one if None.
        config: When to save and what to keep; the defaults of `CheckpointConfig` if None.

    Raises:
        SettingError: A setting that cannot be meant; the message begins with the field's name.

    Example:
        >>> import tempfile, torch, milepost
        >>> from milepost.nn import CrossEntropyLoss, Momentum
        >>> net = torch.nn.Linear(4, 2)
        >>> model = milepost.Model(net, CrossEntropyLoss(), Momentum(net.parameters(), 0.1, 0.9))
        >>> data = [(torch.rand(8, 4), torch.randint(2, (8,))) for _ in range(3)]
        >>> config = milepost.CheckpointConfig(save_checkpoint_steps=3, keep_checkpoint_max=2)
        >>> saver = milepost.ModelCheckpoint("linear", tempfile.mkdtemp(), config)
        >>> model.train(5, data, callbacks=saver)
        >>> sorted(path.name for path in saver.directory.glob("*.ckpt"))
        ['linear-4_3.ckpt', 'linear-5_3.ckpt']
    """

    is_called_last = True

    def __init__(
        self,
        prefix: str = "CKP",
        directory: str | os.PathLike[str] | None = None,
        config: CheckpointConfig | None = None,
    ) -> None:
        if config is not None and not isinstance(config, CheckpointConfig):
            raise SettingTypeError(
                "config",
                found=f"a {type(config).__name__}",
                expected="a CheckpointConfig or None",
                remedy="Build it with CheckpointConfig(...).",
            )
        if directory is not None and not isinstance(directory, (str, os.PathLike)):
            raise SettingTypeError(
                "directory",
                found=f"a {type(directory).__name__}",
                expected="the path of a folder, or None for the current one",
                remedy="Give a str or a Path.",
            )
        self.prefix = check_prefix(prefix)
        self.directory = check_directory(Path.cwd() if directory is None else directory)
        self.config = config or CheckpointConfig()
        self._manager: CheckpointManager | None = None
        self._latest: Path | None = None
        self._signals: SignalWatch | None = None

    @property
    def latest_ckpt_file_name(self) -> str | None:
        """The newest checkpoint of the run, as a path; None before the first."""
        return None if self._latest is None else str(self._latest)

    def resume(self, params: CallbackParams, which: str | os.PathLike[str]) -> Resumed | None:
        """Load a checkpoint (as `CheckpointManager.resume`); the training that begins now goes on with it."""
        manager = self._new_manager(params)
        resumed = manager.resume(which, params.batch_num)
        self._manager, self._latest = manager, manager.latest
        return resumed

    def on_train_begin(self, run_context: RunContext) -> None:
        """Begin a run, unless one was resumed."""
        params = run_context.original_args()
        self._refuse_twins(params)
        if self._manager is None:
            self._manager = self._new_manager(params)
            self._manager.start(_moment(params))
            self._latest = None
        if self.config.save_on_signal:
            self._signals = SignalWatch()
            self._signals.__enter__()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Save if a checkpoint is due; at an epoch's last step, when its end has done what it does."""
        params = run_context.original_args()
        if params.cur_step_in_epoch != params.batch_num:
            self._step(run_context)

    def on_train_epoch_end(self, run_context: RunContext) -> None:
        """Save if the epoch's last step is due."""
        params = run_context.original_args()
        if params.cur_step_in_epoch == params.batch_num:
            self._step(run_context)

    def on_train_end(self, run_context: RunContext) -> None:  # noqa: ARG002 (the life cycle's signature)
        """Save the last step."""
        manager = self._running()
        manager.finish()
        self._latest = manager.latest

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._signals is not None:
            self._signals.__exit__(kind, error, trace)
        manager, self._manager, self._signals = self._manager, None, None
        if manager is not None and error is not None and self.config.exception_save:
            try:
                manager.save_breakpoint()
            except MilepostError as failure:  # what ends the training matters more
                warnings.warn(f"the last step before the exception was not saved: {failure}", stacklevel=2)
            self._latest = manager.latest
        if manager is not None:
            manager.close()

    def _step(self, run_context: RunContext) -> None:
        params = run_context.original_args()
        manager = self._running()
        moment = _moment(params, _inputs(params) if manager.needs_inputs else ())
        received = self._signals.received if self._signals is not None else None
        if received is None:
            manager.step(moment)
        elif not run_context.get_stop_requested():
            manager.save_breakpoint(moment)
            warnings.warn(f"{received.name} ends the training; newest checkpoint: {manager.latest}", stacklevel=2)
            run_context.request_stop()
        self._latest = manager.latest

    def _running(self) -> CheckpointManager:
        if self._manager is None:
            raise TrainingError(
                f"ModelCheckpoint({self.prefix!r})",
                found="a training that it did not see begin, or that began inside another one",
                expected="one training at a time, begun with on_train_begin",
                remedy="Call super().on_train_begin(run_context) in a subclass; give an inner training its own.",
            )
        return self._manager

    def _new_manager(self, params: CallbackParams) -> CheckpointManager:
        loss = params.loss_fn
        beside = {"loss": loss} if isinstance(loss, torch.nn.Module) and loss.state_dict() else {}
        return CheckpointManager(
            self.directory, params.network, params.optimizer, beside=beside, prefix=self.prefix, config=self.config
        )

    def _refuse_twins(self, params: CallbackParams) -> None:
        savers = [callback for callback in params.list_callback if isinstance(callback, ModelCheckpoint)]
        twins = [each for each in savers if (each.directory, each.prefix) == (self.directory, self.prefix)]
        if len(twins) > 1:
            raise SettingError(
                "callbacks",
                found=f"{len(twins)} ModelCheckpoints of the prefix {self.prefix!r} in {self.directory}",
                expected="one: each would count and remove the other's files",
                remedy="Give them different prefixes.",
            )


def _moment(params: CallbackParams, inputs: tuple[Any, ...] = ()) -> Moment:
    return Moment(
        epoch=params.cur_epoch_num,
        step=params.cur_step_in_epoch,
        global_step=params.cur_step_num,
        steps_per_epoch=params.batch_num,
        metrics={} if params.net_outputs is None else {"loss": params.net_outputs},
        loader=params.train_dataset,
        epoch_start=params.epoch_start,
        inputs=inputs,
    )


def _inputs(params: CallbackParams) -> tuple[Any, ...]:
    """The network's arguments of this step: all of the batch, or without its labels where a loss takes them."""
    batch = params.train_dataset_element
    inputs = batch[0] if params.loss_fn is not None else batch
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
