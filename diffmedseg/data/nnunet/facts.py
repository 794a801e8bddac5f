"""The facts of a raw data set of nnU-Net. Needs no torch."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.nnunet.description import Description, find_description
from diffmedseg.data.nnunet.files import holds_pictures
from diffmedseg.data.nnunet.layouts import NnUNetPictures, NnUNetVolumes
from diffmedseg.data.source import Source
from diffmedseg.errors import DataError
from diffmedseg.files import expand_home

#: Regular expression of names of cases without a patient: each case is its own patient.
ANY_CASE = "(?P<patient>.+)"


def nnunet_layout(
    description: Description, case: str = ANY_CASE, modalities: Sequence[str] | None = None
) -> NnUNetVolumes | NnUNetPictures:
    """Return the layout of a data set of volumes or pictures.

    Raises:
        DataError: If pictures have neither one nor three channels.
        ValueError: If a modality is not in the data set.
    """
    if not holds_pictures(description):
        return NnUNetVolumes(description.channels, case, modalities)
    if len(description.channels) not in (1, 3) or modalities is not None:
        raise DataError(
            f"{description.path} names {len(description.channels)} channels; pictures need 1 or 3 channels, and all "
            "are read. Leave data.modalities out, and save other pictures as grey or RGB."
        )
    return NnUNetPictures(description.labels, description.ignore, case)


def source_of(description: Description, source: Source) -> Source:
    """Return the origin of a data set, as far as dataset.json states it."""
    stated = {key: description.facts.get(key) for key in ("licence", "license", "reference", "citation")}
    folder = description.root.resolve().name
    return replace(
        source,
        name=re.sub(r"[^\w.]+", "_", folder) or source.name,
        title=folder or source.title,
        licence=str(stated["licence"] or stated["license"] or source.licence),
        citation=str(stated["citation"] or stated["reference"] or source.citation),
    )


def nnunet_info(
    root: str | Path,
    source: Source,
    modalities: Sequence[str] | None = None,
    regions: Sequence[str] | None = None,
    case: str = ANY_CASE,
    context: int = 0,
    context_distance: float | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    range: tuple[float, float] | None = None,
    depth: int = 0,
    square_pixels: bool = False,
    **_: object,
) -> DatasetInfo:
    """Return the facts of a raw data set. The arguments are those of ``NnUNetDataModule``; others are ignored.

    Without a dataset.json the channel is ``image`` and the region ``foreground``.

    Raises:
        DataError: If dataset.json is damaged.
        ValueError: If a region or a modality is not in the data set.
    """
    from diffmedseg.data.facts import brain_info, picture_info

    description = find_description(expand_home(root))
    if description is None:
        volumes = NnUNetVolumes(["image"], case)
        labels = {"foreground": [1]}
        return brain_info(source, volumes, labels, None, context, context_distance, None, depth, square_pixels)
    layout, source = nnunet_layout(description, case, modalities), source_of(description, source)
    if isinstance(layout, NnUNetPictures):
        grey = len(description.channels) == 1
        return picture_info(source, layout, root, description.nested, grey=grey, range=range, regions=regions)
    slices = context, context_distance, ranges, depth, square_pixels
    return brain_info(source, layout, description.labels, regions, *slices)
