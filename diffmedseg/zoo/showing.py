"""The picture of an entry: its worst cases, and for comparison the median and the best case."""

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from PIL import Image

from diffmedseg.atomic import write_whole
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.views import collate
from diffmedseg.errors import DataError, ZooError
from diffmedseg.evaluation.figures import Example, choose_examples, draw_examples, example_of
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.models.segmenter import DiffusionSegmenter

_WORST = 3  # cases
PICTURE_BYTES = 150_000  # maximum size, to keep an entry small
_DPI = (110, 75, 55, 40, 30)  # the first with a small enough file is used


def show_cases(model: DiffusionSegmenter, data: SegmentationDataModule, rows: Sequence[CaseScore], path: Path) -> str:
    """Draw a model's worst, median and best test cases, by the Dice of the first region.

    Cases with an empty reference and an empty mask are left out. Of a volume, the slice with the largest reference is
    shown; without a reference, the slice with the largest mask.

    Args:
        model: Segments the cases with the entry's weights.
        data: The data module of the scores.
        rows: Scores of all test cases.
        path: The PNG to write, of at most ``PICTURE_BYTES``.

    Returns:
        Why nothing was written; empty if the picture was written.
    """
    region_rows = [row for row in rows if row.region == model.regions[0]]
    region_rows = [row for row in region_rows if not row.both_empty] or region_rows
    chosen = {"worst": choose_examples(region_rows, _WORST)["worst"]} | {
        name: group for name, group in choose_examples(region_rows, 1).items() if name != "worst"
    }
    try:
        data.prepare_data()
        data.setup("test")
        data.configure_targets((), model.regions)
    except (DataError, OSError) as error:
        return f"the data was not found ({str(error).splitlines()[0][:200]})"
    cases = set(data.stores["test"].cases)
    missing = [row.case for group in chosen.values() for row in group if row.case not in cases]
    if missing:
        return f"the data has no case {', '.join(missing)}"
    examples = [
        (f"{name}: {row.case}\nDice {row.dice:.2f}", _segmented(model, data, row.case))
        for name, group in chosen.items()
        for row in group
    ]
    _save_small(draw_examples(examples, model.regions), path)
    return ""


def _segmented(model: DiffusionSegmenter, data: SegmentationDataModule, case: str) -> Example:
    """Segment the slice of a case to show; a network of volumes segments the whole case."""
    view = data.evaluation_view("test", native=True)
    items = [view[index] for index, name in enumerate(data.stores["test"].cases) if name == case]
    areas = [int(item["raters"].sum()) for item in items]
    largest, examples = [i for i, area in enumerate(areas) if area == max(areas)], []
    for group, indices in [(items, largest)] if model.depth else [([items[i]], [0]) for i in largest]:
        batch = data.on_after_batch_transfer(collate(group), 0)
        result = model.segment(batch["image"], keys=batch["case"])
        examples += [example_of(batch, result, i, model.threshold) for i in indices]
    return max(examples, key=lambda example: int(example.mask.sum()))


def _save_small(figure: Figure, path: Path) -> None:
    """Write a PNG with few colours, in the highest resolution within ``PICTURE_BYTES``."""
    for dpi in _DPI:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dpi)
        small = io.BytesIO()
        Image.open(buffer).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(small, "png", optimize=True)
        if len(small.getvalue()) <= PICTURE_BYTES:
            break
    write_whole(path, lambda temporary: temporary.write_bytes(small.getvalue()))


def check_picture(path: Path) -> None:
    """Refuse a file that is no complete picture.

    Raises:
        ZooError: If the file cannot be decoded; the message names it.
    """
    try:
        with Image.open(path, formats=("PNG",)) as picture:
            picture.load()
    except Exception as error:  # a file can be anything
        raise ZooError(f"{path} is no picture ({error}): export the entry again.") from error
