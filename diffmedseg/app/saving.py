"""Save corrected masks as a data set for ``diffmedseg train ... folder`` or ``... volumes``."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from PIL.ExifTags import Base

from diffmedseg.app.scene import Scene
from diffmedseg.atomic import write_whole
from diffmedseg.errors import DataError
from diffmedseg.files import file_sha256
from diffmedseg.prediction import Naming, find_cases
from diffmedseg.prediction.volumes.reading import read_case
from diffmedseg.reading.label_maps import draw_labels
from diffmedseg.reading.names import PICTURES, comparable, mask_key
from diffmedseg.reading.opening import open_image, stored_orientation
from diffmedseg.reading.pictures import read_upright, turn_back
from diffmedseg.segmentation import nest

_UNSHRUNK = 2**20  # px: no picture is longer
_OWN = "mine.yaml"  # describes regions and channels
Names = dict[str, str]


@dataclass
class CorrectedSet:
    """The corrected images of a session, in a folder.

    Pictures are saved as ``images/ID.png`` and ``masks/ID.png``, several regions as ``masks/REGION/ID.png``. Volumes
    are ``images/ID.nii.gz`` and ``masks/ID.nii.gz``. A configuration names the regions as the model does.

    Attributes:
        folder: Folder of the data set.
        regions: The model's regions.
        nested: Whether each region lies in the region before it.
    """

    folder: Path
    regions: tuple[str, ...]
    nested: bool
    _ids: Names = field(default_factory=dict)  # by the hash of the image

    def __len__(self) -> int:
        return len(self._ids)

    @property
    def data(self) -> str:
        """The name of the data set on the command line."""
        return "volumes" if any(self.folder.glob("images/*.nii.gz")) else "folder"

    def command(self, model: str, pretrained: str) -> str:
        """Return the command that fine-tunes a model on the data set, after it is unpacked into ``corrected``.

        Args:
            model: The model's name on the command line, such as ``medsegdiff-lite``.
            pretrained: The zoo entry, run or checkpoint to start from.
        """
        settings = f"--data.root corrected -c corrected/{_OWN}"
        return f"diffmedseg train {model} {self.data} {settings} --pretrained {pretrained}"

    def _identify(self, name: str, image: Path) -> str:
        """Return the image's id. The same image keeps its id; other images of the same name get another id."""
        digest = file_sha256(image)
        if digest in self._ids:
            return self._ids[digest]
        wanted = mask_key(Path(f"{Path(name).name}.png")) or "image"
        taken, found, number = {comparable(one) for one in self._ids.values()}, wanted, 1
        while comparable(found) in taken:
            number += 1
            found = f"{wanted}-{number}"
        self._ids[digest] = found
        return found

    def add_picture(self, scene: Scene, image: Path, predicted: dict[str, Path], edited: NDArray[np.bool_]) -> str:
        """Save a picture with its corrected mask, at the size and orientation of the picture's file.

        Pixels that were not edited keep the mask that was predicted at this size.

        Args:
            scene: The picture's scene.
            image: Its file.
            predicted: The mask file of each region that ``predict`` wrote.
            edited: (K, H, W): the edited masks, upright, at the scene's size.

        Returns:
            The picture's id.

        Raises:
            DataError: If a file cannot be read.
        """
        changed = edited != scene.mask[:, 0]
        name = self._identify(scene.name, image)
        orientation = stored_orientation(image)
        drawn = []
        for k, region in enumerate(self.regions):
            with open_image(predicted[region]) as stored:
                native = np.asarray(stored.convert("L")) > 127
            layers = [turn_back(torch.from_numpy(one), orientation).numpy() for one in (changed[k], edited[k])]
            where, mask = (_enlarged(layer, native.shape) for layer in layers)
            drawn.append(np.where(where, mask, native))
        if self.nested:
            drawn = list(nest(torch.from_numpy(np.stack(drawn))).numpy())
        exif = Image.Exif()
        exif[Base.Orientation] = orientation
        for region, mask in zip(self.regions, drawn, strict=True):
            levels = Image.fromarray(mask.astype(np.uint8) * 255)
            path = self._mask_folder(region) / f"{name}.png"
            write_whole(path, lambda temporary, levels=levels: levels.save(temporary, "PNG", exif=exif))  # type: ignore[misc]
        self._save_image(image, name)
        masks = {region: [f"masks*/{self._below(region)}{{id}}"] for region in self.regions}
        self._describe({"layout": {"init_args": {"masks": masks}}, "nested": self.nested})
        return name

    def _below(self, region: str) -> str:
        return f"{region}/" if len(self.regions) > 1 else ""

    def _mask_folder(self, region: str) -> Path:
        return self.folder / "masks" / self._below(region)

    def _save_image(self, image: Path, name: str) -> None:
        """Copy a picture unchanged. If data sets do not know its ending, save it as an upright PNG."""
        if image.suffix.lower() in PICTURES:
            target = self.folder / "images" / f"{name}{image.suffix.lower()}"
            write_whole(target, lambda temporary: shutil.copyfile(image, temporary))
            return
        if stored_orientation(image) != 1:
            raise DataError(f"{image.name} is turned, and its ending is not known: save it as .png or .jpg first.")
        picture = read_upright(image, _UNSHRUNK, None)
        write_whole(self.folder / "images" / f"{name}.png", lambda temporary: picture.save(temporary, "PNG"))

    def add_volume(
        self, scene: Scene, sources: Sequence[Path], channels: tuple[str, ...], edited: NDArray[np.bool_]
    ) -> str:
        """Save a volume, all its channels in one file, with its corrected mask.

        Args:
            scene: The volume's scene.
            sources: Files and folders that include the volume.
            channels: The model's channels.
            edited: (K, D, H, W): the edited masks.

        Returns:
            The volume's id.

        Raises:
            DataError: If the volume cannot be read, or if regions overlap that do not nest.
        """
        import SimpleITK as sitk

        [case] = [one for one in find_cases(sources, Naming(channels, {})) if one.name == scene.name]
        volume = read_case(case)
        name = self._identify(scene.name, case.files()[0])
        masks = torch.from_numpy(edited)
        values = {region: number for number, region in enumerate(self.regions, 1)}
        labels = draw_labels(
            nest(masks.transpose(0, 1)).transpose(0, 1) if self.nested else masks, values, self.nested
        ).numpy()
        images = []
        for channel in volume.channels:
            image = sitk.GetImageFromArray(channel.astype(np.float32))
            volume.oriented.grid.give(image)
            images.append(image)
        mask = sitk.GetImageFromArray(labels)
        volume.oriented.grid.give(mask)
        whole = sitk.JoinSeries(images) if len(images) > 1 else images[0]
        for folder, one in (("images", whole), ("masks", mask)):
            path = self.folder / folder / f"{name}.nii.gz"
            write_whole(path, lambda temporary, one=one: sitk.WriteImage(one, str(temporary), useCompression=True))  # type: ignore[misc]
        inside = {
            region: list(range(number, len(values) + 1)) if self.nested else [number]
            for region, number in values.items()
        }
        self._describe({"layout": {"init_args": {"channels": list(channels)}}, "labels": inside})
        return name

    def _describe(self, init_args: dict[str, object]) -> None:
        text = yaml.safe_dump({"data": {"init_args": init_args}}, sort_keys=False)
        write_whole(self.folder / _OWN, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def _enlarged(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """Resize a mask to (H, W) by its nearest pixels."""
    image = Image.fromarray(mask.astype(np.uint8) * 255)
    return np.asarray(image.resize((shape[1], shape[0]), Image.Resampling.NEAREST)) > 127
