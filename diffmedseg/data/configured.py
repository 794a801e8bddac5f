"""Building a data module from what a run recorded."""

from typing import Any

from jsonargparse import ArgumentParser

import diffmedseg.data
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.lazy import import_names


def build_data(config: dict[str, Any]) -> SegmentationDataModule:
    """Build the data module that a config describes.

    Args:
        config: ``class_path`` and ``init_args``, as under ``data`` of a run's config.yaml or in experiments/data.
    """
    import_names(diffmedseg.data)
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationDataModule, "data")
    data: SegmentationDataModule = parser.instantiate(parser.parse_object({"data": config})).data
    return data
