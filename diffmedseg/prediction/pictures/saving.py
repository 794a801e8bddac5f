"""Writing the result of ``segment`` in the form of ``predict``."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from diffmedseg.errors import DataError
from diffmedseg.notebook import select
from diffmedseg.prediction.pictures.folder import PictureFolder
from diffmedseg.prediction.pictures.predict import describe_result, takes_pictures
from diffmedseg.prediction.run import Settings, describe_model
from diffmedseg.segmentation import Segmentation
from diffmedseg.wording import count, first_names


def save(result: Segmentation, folder: Path, names: Sequence[str]) -> list[Path]:
    """Write the maps of each image, and the table; see :meth:`Segmentation.save`."""
    origin, number = result.origin, len(result.mask)
    if origin is None:
        raise ValueError(
            "The model of this segmentation is not known. Save a segmentation that model.segment returned."
        )
    model = origin.model
    if not takes_pictures(model):
        raise ValueError(
            f"This model takes volumes of {', '.join(model.channels)}, and save writes pictures only. Use `diffmedseg "
            "predict` for volumes: it writes NIfTI files with the positions of the voxels."
        )
    names = names or (["image"] if number == 1 else [f"image{i}" for i in range(1, number + 1)])
    _check_names(names, number)
    settings = Settings(**origin.settings).filled_from(model)
    target = PictureFolder(folder, model, describe_model(model) | settings.stored())
    written: list[Path] = []
    with target.opened(resume=True):
        if known := [name for name in names if name in target.rows]:
            raise DataError(f"{folder} holds results of {first_names(known)}: choose other names, or a new folder.")
        target.check_names([*target.rows, *names])
        target.begin()
        for i, name in enumerate(names):
            segmentation = select(result, i)
            maps = target.draw_maps(name, segmentation)
            target.write_maps(maps, origin.orientation)
            height, width = (int(length) for length in segmentation.mask.shape[-2:])
            rows = describe_result(name, model, segmentation, (height, width), origin.orientation, "")
            target.rows[name] = [replace(row, seconds=round(origin.seconds / number, 4)) for row in rows]
            written += maps
        target.write_table([*target.rows])
    return [*written, target.table]


def _check_names(names: Sequence[str], number: int) -> None:
    """Refuse a wrong number of names, equal names, and names that are not file names.

    Raises:
        ValueError: The message names the wrong names.
    """
    if len(names) != number or len(set(names)) < number:
        raise ValueError(
            f"There {'is' if number == 1 else 'are'} {count(number, 'image')}; the names are {', '.join(names)}. "
            "Give each image its own name."
        )
    if wrong := [name for name in names if not name or name != Path(name).name or "\0" in name]:
        raise ValueError(f"{wrong[0]!r} is not the name of a file. Give names without folders.")
