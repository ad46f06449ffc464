"""The tutorial's names for callbacks; what they do lives in the files beside this one."""

from milepost.config import CheckpointConfig
from milepost.train.checkpoint import ModelCheckpoint
from milepost.train.early import EarlyStopping
from milepost.train.lifecycle import Callback, RunContext
from milepost.train.monitors import LossMonitor, SaveMonitor, TimeMonitor

__all__ = [
    "Callback",
    "CheckpointConfig",
    "EarlyStopping",
    "LossMonitor",
    "ModelCheckpoint",
    "RunContext",
    "SaveMonitor",
    "TimeMonitor",
]
