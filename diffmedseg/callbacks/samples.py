"""Write the samples of a test as files for ``diffmedseg benchmark ambiguity``."""

from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer

from diffmedseg.callbacks.order import SegmentationCallback, Stage
from diffmedseg.errors import DataError
from diffmedseg.evaluation.sample_folders import sample_file, write_samples
from diffmedseg.files import expand_home
from diffmedseg.metrics.images import at_native_size


class SampleFiles(SegmentationCallback):
    """Writes the samples of every test image at native size; see :mod:`diffmedseg.evaluation.sample_folders`.

    Args:
        folder: A new or empty folder.
    """

    stage = Stage.LOOK

    def __init__(self, folder: str | Path) -> None:
        self.folder = expand_home(folder)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Refuse a folder with files, so that samples of two tests do not mix.

        Raises:
            DataError: If the folder is a file or not empty.
        """
        super().setup(trainer, pl_module, stage)
        if stage != "test" or not trainer.is_global_zero:
            return
        if self.folder.exists() and (not self.folder.is_dir() or any(self.folder.iterdir())):
            raise DataError(f"{self.folder} is not an empty folder. Name a new folder for the samples.")
        self.folder.mkdir(parents=True, exist_ok=True)

    def on_test_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,  # noqa: ANN401
        batch: Any,  # noqa: ANN401
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the samples of a batch.

        Raises:
            DataError: If the file of an image exists already: two images have the same file name.
        """
        samples = outputs["segmentation"].samples.cpu()
        for i, name in enumerate(batch["id"]):
            height, width = batch["reference"][i].shape[-2:]
            native = [
                at_native_size(sample, (int(height), int(width)), batch["window"][i]) > 0.5 for sample in samples[i]
            ]
            if (self.folder / sample_file(name)).exists():
                raise DataError(f"Two images have the same file of samples, {sample_file(name)}. Rename one of them.")
            masks, field_of_view = torch.stack(native), batch["field_of_view"][i]
            write_samples(self.folder, name, masks if field_of_view is None else masks & field_of_view)
