"""`EarlyStopping`: ends a training that no longer gets better. What is measured, and when, is not decided here."""

from __future__ import annotations

import math
from typing import Any, Literal

from milepost.errors import SettingError, TrainingError
from milepost.train.lifecycle import Callback, RunContext, whole_number


class EarlyStopping(Callback):
    """Ends the training of `Model.fit` when a metric of its evaluations has not become better for a while.

    Its state is saved by `ModelCheckpoint`, so a resumed training stops where one that was never interrupted does.

    Args:
        monitor: The metric: ``"eval_loss"``, or the name of one of the model's metrics.
        mode: Whether more (``"max"``) or less (``"min"``) is better; by default less for a name that ends in loss, mae
            or mse, else more.
        patience: Evaluations without a better value before the training ends, 1 or more.
        min_delta: By how much a value must be better to count, 0 or more, in the metric's unit.

    Raises:
        SettingError: A setting that cannot be meant.
        TrainingError: In the training: an evaluation without that metric.

    Example:
        >>> stopper = EarlyStopping("accuracy", patience=3)
        >>> stopper.mode
        'max'

    Source: mindspore.train.EarlyStopping, MindSpore 2.10, without what a `ModelCheckpoint` does (restoring the best).
    """

    def __init__(
        self,
        monitor: str = "eval_loss",
        mode: Literal["max", "min"] | None = None,
        patience: int = 1,
        min_delta: float = 0.0,
    ) -> None:
        if mode not in ("max", "min", None):
            raise SettingError("mode", found=repr(mode), expected='"max" or "min"', remedy='Give "max" for accuracy.')
        if not 0 <= min_delta < math.inf:
            raise SettingError("min_delta", found=repr(min_delta), expected="0 or more", remedy="Leave it out.")
        self.monitor = monitor
        self.mode = mode or ("min" if monitor.lower().endswith(("loss", "mae", "mse")) else "max")
        self.patience = whole_number("patience", patience, least=1)
        self.min_delta = float(min_delta)
        self._best: float | None = None
        self._waited = 0

    def on_train_begin(self, run_context: RunContext) -> None:
        """Begin anew, in a training that does so too; one that had been stopped has nothing more to do."""
        if run_context.original_args().cur_step_num == 0:
            self._best, self._waited = None, 0
        if self._waited >= self.patience:
            run_context.request_stop()

    def on_eval_end(self, run_context: RunContext) -> None:
        """Look at what was measured."""
        metrics = run_context.original_args().metrics or {}
        if self.monitor not in metrics:
            raise TrainingError(
                f"EarlyStopping({self.monitor!r})",
                found=f"an evaluation of {', '.join(metrics) or 'nothing'}",
                expected=f"one of {self.monitor}",
                remedy="Give one of these as monitor, or add the metric to Model(metrics=...).",
            )
        value = float(metrics[self.monitor])
        if self._is_better(value):
            self._best, self._waited = value, 0
        else:
            self._waited += 1
            if self._waited >= self.patience:
                run_context.request_stop()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed training goes on with."""
        return {"best": self._best, "waited": self._waited}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with what `state_dict` returned."""
        self._best, self._waited = state["best"], state["waited"]

    def _is_better(self, value: float) -> bool:
        if math.isnan(value):
            return False
        if self._best is None:
            return True
        gain = value - self._best if self.mode == "max" else self._best - value
        return gain > self.min_delta
