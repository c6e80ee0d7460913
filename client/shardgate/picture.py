"""A figure that a notebook draws by itself, once, whether or not matplotlib was set up there.

IPython knows how to draw matplotlib's figures only after `%matplotlib inline`, or after a first plot by pyplot. Before
that it asks the object itself, by `_repr_png_`. It never does both.
"""

from __future__ import annotations

import io

from matplotlib.figure import Figure


class Picture(Figure):
    """matplotlib's Figure with a PNG of its own for IPython."""

    def _repr_png_(self) -> bytes:
        png = io.BytesIO()
        self.savefig(png, format="png")
        return png.getvalue()
