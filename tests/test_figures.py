from itertools import pairwise

import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from diffmedseg.figures import label_row


@pytest.mark.parametrize(("height", "fontsize"), [(1.65, 6), (2.05, 8)])
@pytest.mark.parametrize("name", ["ISIC_0012345", "LIDC-IDRI-0001_slice-8", "a" * 70, "worst: long\nDice 0.12"])
def test_a_name_of_any_length_stays_beside_its_row(height, fontsize, name):
    figure = Figure(figsize=(6, 3 * height), layout="constrained")
    for axis in figure.subplots(3, 1):
        label_row(axis, name, fontsize)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    rows = [axis.yaxis.label.get_window_extent() for axis in figure.axes]
    for above, below in pairwise(rows):
        assert below.y1 < above.y0
    assert "".join(figure.axes[0].get_ylabel().split()) == "".join(name.split())
