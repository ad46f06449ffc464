"""The graphs room: a module as a graph, and back from one. When a checkpoint is written is not known here."""

from milepost.graphs.formats import export
from milepost.graphs.loaded import LoadedModel, load_model
from milepost.graphs.meta import fill, graph_meta

__all__ = ["LoadedModel", "export", "fill", "graph_meta", "load_model"]
