"""The one table of torch's operators in terms of GE's, a file per family. What a file looks like is not known here."""

from milepost.graphs.geir.operators import elementwise, images, products, reductions, shapes
from milepost.graphs.geir.operators.calls import Call, Table

TABLE: Table = {**images.TABLE, **products.TABLE, **elementwise.TABLE, **reductions.TABLE, **shapes.TABLE}
"""torch's operator -> how it is said in GE's."""

__all__ = ["TABLE", "Call"]
