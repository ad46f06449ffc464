"""Milepost: checkpoints for PyTorch, saved by policy, verified at every load, exact to resume, readable by MindSpore.

This is the door. `ROOMS` says where each public name lives; a room is imported when one of its names is first asked
for, so that ``import milepost`` does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from milepost._version import __version__

if TYPE_CHECKING:
    from milepost.averaging import average as average
    from milepost.checkpoint.loading import load_checkpoint as load_checkpoint
    from milepost.checkpoint.loading import load_param_into_net as load_param_into_net
    from milepost.checkpoint.saving import save_checkpoint as save_checkpoint
    from milepost.comparison import compare as compare
    from milepost.config import CheckpointConfig as CheckpointConfig
    from milepost.errors import MilepostError as MilepostError
    from milepost.graphs import export as export
    from milepost.graphs import load_model as load_model
    from milepost.interop.convert import convert as convert
    from milepost.manager import CheckpointManager as CheckpointManager
    from milepost.parameters import Parameters as Parameters
    from milepost.pruning import prune as prune
    from milepost.state.report import LoadReport as LoadReport
    from milepost.train.callback import Callback as Callback
    from milepost.train.callback import EarlyStopping as EarlyStopping
    from milepost.train.callback import LossMonitor as LossMonitor
    from milepost.train.callback import ModelCheckpoint as ModelCheckpoint
    from milepost.train.callback import RunContext as RunContext
    from milepost.train.callback import SaveMonitor as SaveMonitor
    from milepost.train.callback import TimeMonitor as TimeMonitor
    from milepost.train.model import Model as Model
    from milepost.train.progress import ProgressBar as ProgressBar
    from milepost.verification import verify as verify

ROOMS = {
    "Callback": "milepost.train.callback",
    "CheckpointConfig": "milepost.config",
    "CheckpointManager": "milepost.manager",
    "EarlyStopping": "milepost.train.callback",
    "LoadReport": "milepost.state.report",
    "LossMonitor": "milepost.train.callback",
    "MilepostError": "milepost.errors",
    "Model": "milepost.train.model",
    "ModelCheckpoint": "milepost.train.callback",
    "Parameters": "milepost.parameters",
    "ProgressBar": "milepost.train.progress",
    "RunContext": "milepost.train.callback",
    "SaveMonitor": "milepost.train.callback",
    "TimeMonitor": "milepost.train.callback",
    "average": "milepost.averaging",
    "compare": "milepost.comparison",
    "convert": "milepost.interop.convert",
    "export": "milepost.graphs",
    "load_checkpoint": "milepost.checkpoint.loading",
    "load_model": "milepost.graphs",
    "load_param_into_net": "milepost.checkpoint.loading",
    "prune": "milepost.pruning",
    "save_checkpoint": "milepost.checkpoint.saving",
    "verify": "milepost.verification",
}

__all__ = ["__version__", *sorted(ROOMS)]


def __getattr__(name: str) -> Any:
    if name in ("errors", "nn"):  # rooms that people reach through the door: milepost.nn.Momentum
        return import_module(f"milepost.{name}")
    if name not in ROOMS:
        raise AttributeError(f"module 'milepost' has no attribute {name!r}")
    value = getattr(import_module(ROOMS[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
