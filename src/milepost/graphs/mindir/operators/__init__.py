"""The one table of torch's operators as MindSpore's, a file per family. What a file looks like is not known here."""

from milepost.graphs.mindir.operators import elementwise, images, products, reductions, shapes
from milepost.graphs.mindir.operators.calls import Table

TABLE: Table = {**images.TABLE, **products.TABLE, **elementwise.TABLE, **reductions.TABLE, **shapes.TABLE}
"""torch's operator -> how it is said in MindSpore's primitives."""

__all__ = ["TABLE"]
