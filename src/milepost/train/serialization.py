"""The tutorial's names for loading, saving and exporting; what they do lives in other rooms."""

from milepost.checkpoint.loading import load_checkpoint, load_param_into_net
from milepost.checkpoint.saving import save_checkpoint
from milepost.graphs import export

__all__ = ["export", "load_checkpoint", "load_param_into_net", "save_checkpoint"]
