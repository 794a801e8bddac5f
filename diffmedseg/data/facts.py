"""The facts of every data set, made from its configuration. Nothing here imports torch.

Data modules and lists of data sets share these functions, so each fact is typed once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path

from diffmedseg.data.info import DatasetInfo
from diffmedseg.data.mri.finding import chosen
from diffmedseg.data.mri.layout import Layout
from diffmedseg.data.mri.volumes import NORMALISATION, RANGE_NORMALISATION
from diffmedseg.data.pictures.cases import PictureLayout
from diffmedseg.data.source import Source
from diffmedseg.files import expand_home
from diffmedseg.reading.slice_input import SliceInput

ISIC_2016 = DatasetInfo(
    name="isic2016",
    title="ISIC 2016",
    channels=("red", "green", "blue"),
    regions=("lesion",),
    nested=False,
    raters=1,
    licence="CC0",
    citation="Gutman et al.: Skin Lesion Analysis toward Melanoma Detection: A Challenge at the International "
    "Symposium on Biomedical Imaging (ISBI) 2016, arXiv 1605.01397",
    url="https://challenge.isic-archive.com/data/#2016",
    download="From https://challenge.isic-archive.com/data/#2016 (no registration, 0.8 GB) download "
    "ISBI2016_ISIC_Part1_{Training,Test}_{Data,GroundTruth}.zip and unpack them into one folder, where they give "
    "four folders of the same names.",
)

ISIC_2017 = DatasetInfo(
    name="isic2017",
    title="ISIC 2017",
    trained=True,
    channels=("red", "green", "blue"),
    regions=("lesion",),
    nested=False,
    raters=1,
    licence="CC0",
    citation="Codella et al.: Skin Lesion Analysis Toward Melanoma Detection: A Challenge at the 2017 "
    "International Symposium on Biomedical Imaging (ISBI), arXiv 1710.05006",
    url="https://challenge.isic-archive.com/data/#2017",
    download="From https://challenge.isic-archive.com/data/#2017 (no registration, 12 GB) download "
    "ISIC-2017_{Training,Validation,Test_v2}_Data.zip and "
    "ISIC-2017_{Training,Validation,Test_v2}_Part1_GroundTruth.zip and unpack them "
    "into one folder, where they give six folders of the same names.",
)

ISIC_2018 = DatasetInfo(
    name="isic2018",
    title="ISIC 2018",
    channels=("red", "green", "blue"),
    regions=("lesion",),
    nested=False,
    raters=1,
    licence="CC0 (Tasks 1 and 2, which this is; mirrors that include Task 3 are CC BY-NC)",
    citation="Codella et al.: Skin Lesion Analysis Toward Melanoma Detection 2018: A Challenge Hosted by the "
    "International Skin Imaging Collaboration (ISIC), arXiv 1902.03368",
    url="https://challenge.isic-archive.com/data/#2018",
    download="From https://challenge.isic-archive.com/data/#2018 (no registration, 13 GB) download "
    "ISIC2018_Task1-2_{Training,Validation,Test}_Input.zip and "
    "ISIC2018_Task1_{Training,Validation,Test}_GroundTruth.zip and unpack them into "
    "one folder, where they give six folders of the same names.",
)

SYNTHETIC = DatasetInfo(
    name="synthetic",
    title="Synthetic lesions",
    trained=True,
    channels=("red", "green", "blue"),
    regions=("lesion",),
    nested=False,
    raters=4,
    licence="Apache-2.0",
    citation="diffmedseg",
    url="",
    download="Nothing to download: the images are generated.",
)


def synthetic_info(nested: bool = False, raters: int = 4, **_: object) -> DatasetInfo:
    """Return the facts of synthetic lesions. Takes the arguments of ``SyntheticDataModule``; ignores others."""
    info = replace(SYNTHETIC, raters=raters)
    return replace(info, regions=("lesion", "nucleus"), nested=True) if nested else info


def picture_info(
    source: Source,
    layout: PictureLayout,
    root: str | Path = ".",
    nested: bool = False,
    tubular: bool = False,
    grey: bool = False,
    range: tuple[float, float] | None = None,
    windows: str | Path | None = None,
    regions: Sequence[str] | None = None,
    **_: object,
) -> DatasetInfo:
    """Return the facts of pictures. Takes the arguments of ``PictureDataModule``; ignores others.

    If the layout names no raters, each folder of masks below ``root`` is a rater.

    Raises:
        ValueError: If the layout lacks one of ``regions``, or nested regions are not in order.
    """
    names = chosen("regions", regions, layout.regions)
    if nested and names != sorted(names, key=layout.regions.index):
        raise ValueError(
            f"regions are {names}. They are nested: name them from the outermost to the innermost, {layout.regions}."
        )
    return DatasetInfo(
        **asdict(source),
        normalisation=layout.normalisation,
        channels=("grey",) if grey else ("red", "green", "blue"),
        regions=tuple(names),
        nested=nested and len(names) > 1,
        raters=max(layout.raters(expand_home(root)), 1),
        tubular=tubular,
        cropped=windows is not None,
        value_range=None if range is None else (range[0], range[1]),
    )


def brain_info(
    source: Source,
    layout: Layout,
    labels: Mapping[str, Sequence[int]],
    regions: Sequence[str] | None = None,
    context: int = 0,
    context_distance: float | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    depth: int = 0,
    square_pixels: bool = False,
    **_: object,
) -> DatasetInfo:
    """Return the facts of volumes. Takes the arguments of ``BrainMRIDataModule``; ignores others.

    Raises:
        ValueError: If ``labels`` lacks one of ``regions``, or ``ranges`` names an unknown modality.
    """
    names = chosen("regions", regions, list(labels))
    values = [set(labels[name]) for name in names]
    if unknown := set(ranges or {}) - set(layout.modalities):
        modalities = ", ".join(layout.modalities)
        raise ValueError(f"ranges name {', '.join(sorted(unknown))}; the modalities are {modalities}.")
    slice_input = SliceInput(context, context_distance, ranges or {}, depth, square_pixels)
    scored = [NORMALISATION] if len(slice_input.ranges) < len(layout.modalities) else []
    ranged = [RANGE_NORMALISATION.format(channel=name, low=low, high=high)
              for name, (low, high) in slice_input.ranges.items()]  # fmt: skip
    return DatasetInfo(
        **asdict(source),
        channels=layout.modalities,
        regions=tuple(names),
        nested=len(names) > 1 and all(inner <= outer for outer, inner in pairwise(values)),
        raters=1,
        normalisation="; ".join(scored + ranged),
        slice_input=None if slice_input.is_plain else slice_input,
    )
