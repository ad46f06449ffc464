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
from milepost.errors import SettingError, SettingTypeError, TrainingError
from milepost.manager import CheckpointManager
from milepost.paths import check_directory
from milepost.progress import TrainingProgress, keeps_state
from milepost.saver import SaveStats
from milepost.train.lifecycle import Callback, CallbackParams, RunContext


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
        self._best: Path | None = None
        self._stats = SaveStats()

    @property
    def latest_ckpt_file_name(self) -> str | None:
        """The newest checkpoint of the run, as a path; None before the first."""
        latest = self._latest if self._manager is None else self._manager.latest()
        return None if latest is None else str(latest)

    @property
    def best_ckpt_file_name(self) -> str | None:
        """The run's best checkpoint by `CheckpointConfig.monitor`, as a path; None without one, or before the first."""
        best = self._best_of(self._manager) if self._manager is not None else self._best
        return None if best is None else str(best)

    @property
    def stats(self) -> SaveStats:
        """What the checkpoints of the run, or the last one, cost the training."""
        return self._stats if self._manager is None else self._manager.stats

    def begin_run(
        self, params: CallbackParams, which: str | os.PathLike[str] | None, initial_epoch: int
    ) -> TrainingProgress:
        """Begin a run, or go on with one (as `CheckpointManager.resume`); the training that begins now is saved in it.

        Args:
            params: The training.
            which: As in `CheckpointManager.resume`, or None for a new run.
            initial_epoch: Epochs that are behind a training that starts.
        """
        self._refuse_twins(params)
        manager = self._new_manager(params)
        progress = manager.start() if which is None else manager.resume(which, params.batch_num)
        if progress.where is None:
            progress.begin_after(initial_epoch)
        self._manager = manager
        return progress

    def join_run(self, params: CallbackParams, progress: TrainingProgress) -> None:
        """Begin a run of a training that another ModelCheckpoint began, or goes on with."""
        manager = self._new_manager(params)
        manager.start(progress.moment({}))
        manager.follow(progress)
        self._manager = manager

    def on_train_begin(self, run_context: RunContext) -> None:  # noqa: ARG002 (the life cycle's signature)
        """Refuse a training that did not begin here."""
        self._running()

    def on_train_step_end(self, run_context: RunContext) -> None:
        """Save if a checkpoint is due; at an epoch's last step, when its end has done what it does."""
        params = run_context.original_args()
        manager = self._running()
        metrics = {} if params.net_outputs is None else {"loss": params.net_outputs}
        signal = manager.interrupted_by
        if signal is None:
            manager.step_with_inputs(_inputs(params) if manager.needs_inputs else (), **metrics)
        elif not run_context.get_stop_requested():
            manager.save_interrupted(**metrics)
            warnings.warn(f"{signal.name} ends the training; newest checkpoint: {manager.latest()}", stacklevel=2)
            run_context.request_stop()

    def on_eval_end(self, run_context: RunContext) -> None:
        """In a training that validates, add what was measured to the moment that it is at."""
        params = run_context.original_args()
        if self._manager is not None and params.metrics:
            self._manager.report(**params.metrics)

    def on_train_end(self, run_context: RunContext) -> None:  # noqa: ARG002 (the life cycle's signature)
        """Save the last step."""
        self._running().finish()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        manager, self._manager = self._manager, None
        if manager is None:
            return
        if error is not None and self.config.exception_save:
            manager.save_after_exception()
        manager.close_after(error)
        self._latest, self._best, self._stats = manager.latest(), self._best_of(manager), manager.stats

    def _best_of(self, manager: CheckpointManager) -> Path | None:
        return None if self.config.monitor is None else manager.best()

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
        objects: dict[str, Any] = {"loss": loss} if isinstance(loss, torch.nn.Module) and loss.state_dict() else {}
        for callback in params.list_callback:
            if callback is not self and keeps_state(callback):
                name = f"callback_{type(callback).__name__}"
                objects[name if name not in objects else f"{name}_{len(objects)}"] = callback
        return CheckpointManager(
            self.directory,
            params.network,
            params.optimizer,
            loader=params.train_dataset,
            prefix=self.prefix,
            config=self.config,
            **objects,
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


def _inputs(params: CallbackParams) -> tuple[Any, ...]:
    """The network's arguments of this step: all of the batch, or without its labels where a loss takes them."""
    batch = params.train_dataset_element
    inputs = batch[0] if params.loss_fn is not None else batch
    return tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
