"""The graphs room: a module as a graph. What a checkpoint holds, and when one is written, is not known here."""

from milepost.graphs.formats import export
from milepost.graphs.meta import fill, graph_meta

__all__ = ["export", "fill", "graph_meta"]
