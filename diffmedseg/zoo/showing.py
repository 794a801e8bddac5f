"""The picture of an entry: its worst cases, and for comparison the median and the best one."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from diffmedseg.atomic import write_whole
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.store import collate
from diffmedseg.errors import DataError, ZooError
from diffmedseg.evaluation.figures import Example, choose_examples, draw_examples, example_of
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.models.segmenter import DiffusionSegmenter

_WORST = 3  # cases
PICTURE_BYTES = 150_000  # at most: an entry has to stay small
_DPI = (110, 75, 55, 40, 30)  # the first that is small enough


def show_cases(model: DiffusionSegmenter, data: SegmentationDataModule, rows: Sequence[CaseScore], path: Path) -> str:
    """Draw a model's worst, median and best test cases, by the Dice of the first region.

    Cases without anything in which nothing was found are left out. Of a volume the slice with the most reference is
    shown; where there is none, the one in which most is found.

    Args:
        model: Segments them, as users of the entry will.
        data: The data module that they were scored on.
        rows: Scores of all test cases.
        path: The PNG that is written, of ``PICTURE_BYTES`` at most.

    Returns:
        Why nothing was written; empty where the picture was.
    """
    own = [row for row in rows if row.region == model.regions[0]]
    own = [row for row in own if not row.both_empty] or own
    chosen = {"worst": choose_examples(own, _WORST)["worst"]} | {
        name: group for name, group in choose_examples(own, 1).items() if name != "worst"
    }
    try:
        data.prepare_data()
        data.setup("test")
        data.serve((), model.regions)
    except (DataError, OSError) as error:
        return f"the data is not there ({str(error).splitlines()[0][:200]})"
    known = set(data.stores["test"].cases)
    gone = [row.case for group in chosen.values() for row in group if row.case not in known]
    if gone:
        return f"the data that is there has no case {', '.join(gone)}"
    drawn = [
        (f"{name}: {row.case}\nDice {row.dice:.2f}", _segmented(model, data, row.case))
        for name, group in chosen.items()
        for row in group
    ]
    _save_small(draw_examples(drawn, model.regions), path)
    return ""


def _segmented(model: DiffusionSegmenter, data: SegmentationDataModule, case: str) -> Example:
    """Segment the slice of a case that is shown; a network of volumes is shown the whole case."""
    view = data.evaluation_view("test", native=True)
    items = [view[index] for index, name in enumerate(data.stores["test"].cases) if name == case]
    areas = [int(item["raters"].sum()) for item in items]
    largest, found = [i for i, area in enumerate(areas) if area == max(areas)], []
    for group, shown in [(items, largest)] if model.depth else [([items[i]], [0]) for i in largest]:
        batch = data.on_after_batch_transfer(collate(group), 0)
        result = model.segment(batch["image"], keys=batch["case"])
        found += [example_of(batch, result, i, model.threshold) for i in shown]
    return max(found, key=lambda example: int(example.mask.sum()))


def _save_small(figure: Figure, path: Path) -> None:
    """Write a PNG of few colours, as finely as the bytes allow."""
    for dpi in _DPI:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        small = io.BytesIO()
        Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        if len(small.getvalue()) <= PICTURE_BYTES:
            break
    write_whole(path, lambda temporary: temporary.write_bytes(small.getvalue()))


def check_picture(path: Path) -> None:
    """Refuse what is no whole picture.

    Raises:
        ZooError: Naming the file.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
    except Exception as error:  # a file can be anything
        raise ZooError(f"{path} is no picture ({error}): export the entry again.") from error
