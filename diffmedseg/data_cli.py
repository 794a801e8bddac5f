"""``diffmedseg data``: look at data."""

import sys
from pathlib import Path

from jsonargparse import auto_cli

from diffmedseg.data import SegmentationDataModule
from diffmedseg.data.preview import draw_augmentation
from diffmedseg.data.store import DataError
from diffmedseg.figures import save_figure


def augment_preview(*, data: SegmentationDataModule, out: Path, num_images: int = 4, num_variants: int = 6) -> None:
    """Draw images and masks as they are stored and as training gets them.

    Args:
        data: The data module: its yaml, such as experiments/data/isic2017.yaml.
        out: The PNG to write.
        num_images: Rows.
        num_variants: Augmented variants of each image.
    """
    if min(num_images, num_variants) < 1 or out.suffix.lower() != ".png":
        raise DataError(f"num_images {num_images} and num_variants {num_variants} have to be at least 1, {out} a .png.")
    data.prepare_data()
    data.setup("fit")
    save_figure(draw_augmentation(data, num_images, num_variants), out)
    print(f"Wrote {out}")


def main(args: list[str]) -> None:
    """Run ``diffmedseg data`` with these arguments."""
    try:
        auto_cli({"augment-preview": augment_preview}, args=args, prog="diffmedseg data")
    except (DataError, OSError) as error:
        sys.exit(f"error: {error}")
