"""Detection of unfamiliar images by a zoo entry: ``Familiarity``, and simpler scores for comparison.

``python experiments/benchmarks/familiarity.py /path/to/isic2017 --chase /path/to/chase --brats /path/to/brats2015
--lidc /path/to/lidc`` fits each score to the entry's validation cases (a seeded tenth of ISIC 2017's training images).
For each kind of image, it prints the area under the ROC curve against the 150 official validation images, and the share
of images with a warning. Data sets without a folder are left out. ``--entry`` names another entry of ISIC 2017.
"""

import io
import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import yaml
from jsonargparse import auto_cli
from kornia.filters import gaussian_blur2d
from PIL import Image
from timing import hardware
from torch import Tensor
from torch.utils.data import DataLoader

from diffmedseg.data import SegmentationDataModule, SyntheticDataModule
from diffmedseg.data.configured import build_data
from diffmedseg.data.labels.balance import separation
from diffmedseg.data.store import Item
from diffmedseg.familiarity import Familiarity
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.models.batches import to_grid
from diffmedseg.reading.pictures import read_picture
from diffmedseg.zoo import current_source, load_pretrained

#: Maps images to a score, (N,), higher for unusual images, and whether they get a warning, (N,), bool.
Score = Callable[[Tensor], tuple[Tensor, Tensor]]
#: Maps descriptions of the fitted images, (N, F), to a function that scores descriptions; higher is more unusual.
Fit = Callable[[Tensor], Callable[[Tensor], Tensor]]


def main(
    root: Path,
    chase: Path | None = None,
    brats: Path | None = None,
    lidc: Path | None = None,
    entry: str = "medsegdiff-lite_isic2017.cpu64",
) -> None:
    """Print the tables.

    Args:
        root: Folder of ISIC 2017.
        chase: Folder of CHASE_DB1.
        brats: Folder of BraTS 2015.
        lidc: Folder of LIDC-IDRI, prepared like CIMD.
        entry: The entry.
    """
    model = load_pretrained(entry)
    settings = yaml.safe_load((current_source().folder / entry / "run.yaml").read_text())["data"]
    settings["init_args"]["root"] = str(root)
    data = build_data(settings)
    data.setup("validate")
    data.setup("test")
    fitted, familiar = _images(data, data.val_dataloader()), _images(data, data.test_dataloader())
    sets = {"official validation": familiar} | _changed(familiar) | _artificial_images(model.image_size)
    for name, folder, pattern in (("retina (CHASE)", chase, "*.jpg"), ("CT (LIDC)", lidc, "**/image_*.jpg")):
        if folder is not None:
            sets[name] = _read(sorted(folder.glob(pattern)), model.image_size)
    if brats is not None:
        sets["MRI (BraTS 2015, FLAIR)"] = _slices(brats, model.image_size)
    print(f"{hardware()}; {entry}, fitted on {len(fitted)} cases\n")
    _print_table(_scores(model, fitted), sets)


def _scores(model: DiffusionSegmenter, fitted: Tensor) -> dict[str, Score]:
    """Return scores by name, fitted to images."""
    familiarity = Familiarity.fit(_features(model, fitted), [str(i) for i in range(len(fitted))])

    def ours(images: Tensor) -> tuple[Tensor, Tensor]:
        features = _features(model, images)
        points = (features - familiarity.center) / familiarity.scale
        return torch.cdist(points, familiarity.points).amin(1), familiarity(features) <= familiarity.level

    def features(images: Tensor) -> Tensor:
        return _features(model, images)

    return {
        "Familiarity: nearest case": ours,
        "Mahalanobis": _left_out(features, _mahalanobis, fitted),
        "z-scores": _left_out(features, _deviation, fitted),
        "colour histogram, nearest case": _left_out(_histogram, _nearest, fitted),
    }


def _left_out(describe: Callable[[Tensor], Tensor], fit: Fit, fitted: Tensor) -> Score:
    """Make a score that warns of images above the second-highest score of the fitted images.

    Each fitted image is scored by a fit without this image.
    """
    features = describe(fitted)
    numbers = torch.arange(len(features))
    level = sorted(float(fit(features[numbers != i])(features[i : i + 1])) for i in range(len(features)))[-2]

    def score(images: Tensor) -> tuple[Tensor, Tensor]:
        distance = fit(features)(describe(images))
        return distance, distance > level

    return score


def _features(model: DiffusionSegmenter, images: Tensor) -> Tensor:
    features = [model.features(chunk) for chunk in images.split(50)]
    return torch.cat([part for part in features if part is not None])


def _histogram(images: Tensor) -> Tensor:
    """Return a histogram with eight bins per channel, as shares of the pixels."""
    counts = [torch.cat([torch.histc(channel, 8, -1, 1) for channel in image]) for image in images]
    return torch.stack(counts) / images[0, 0].numel()


def _standardised(features: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda values: (values - features.mean(0)) / features.std(0).clamp(min=1e-6)


def _deviation(features: Tensor) -> Callable[[Tensor], Tensor]:
    standard = _standardised(features)
    return lambda values: standard(values).square().mean(1).sqrt()


def _mahalanobis(features: Tensor) -> Callable[[Tensor], Tensor]:
    """Fit a Mahalanobis distance, with correlations shrunk by half."""
    standard = _standardised(features)
    correlation = standard(features).T @ standard(features) / len(features)
    inverse = torch.linalg.inv((correlation + torch.eye(len(correlation))) / 2)
    return lambda values: torch.einsum("nf,fg,ng->n", standard(values), inverse, standard(values)).sqrt()


def _nearest(features: Tensor) -> Callable[[Tensor], Tensor]:
    standard = _standardised(features)
    return lambda values: torch.cdist(standard(values), standard(features)).amin(1)


def _images(data: SegmentationDataModule, loader: DataLoader[Item]) -> Tensor:
    return torch.cat([data.on_after_batch_transfer(batch, 0)["image"] for batch in loader])


def _read(files: list[Path], size: tuple[int, int]) -> Tensor:
    return torch.stack([read_picture(file, 3, size).image for file in files]) / 127.5 - 1


def _slices(folder: Path, size: tuple[int, int]) -> Tensor:
    """Return every 12th slice of the middle three fifths of each brain, scaled from the 1st to the 99th percentile."""
    import SimpleITK as sitk

    slices = []
    for case in sorted(folder.iterdir()):
        flair, brain = (
            sitk.GetArrayFromImage(sitk.ReadImage(str(case / f"{name}.nii.gz")))
            for name in ("Flair_subtrMeanDivStd", "brainmask")
        )
        low, high = np.percentile(flair[brain > 0], [1, 99])
        numbers = np.flatnonzero((brain > 0).any((1, 2)))
        chosen = numbers[len(numbers) // 5 : -(len(numbers) // 5) : 12]
        grey = np.clip((flair[chosen] - low) / (high - low), 0, 1) * (brain[chosen] > 0)
        slices.append(torch.from_numpy(grey).float()[:, None].expand(-1, 3, -1, -1) * 2 - 1)
    return torch.cat([to_grid(image, size) for image in slices])


def _changed(images: Tensor) -> dict[str, Tensor]:
    """Return changed images. The first five kinds should stay familiar."""
    grey = images.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    return {
        "the same, mirrored": images.flip(-1),
        "the same, rotated by 90 degrees": torch.rot90(images, 1, (-2, -1)),
        "the same, JPEG of quality 30": _jpeg(images, 30),
        "the same, blurred by 1 px": gaussian_blur2d(images, (7, 7), (1.0, 1.0)),
        "the same, grey": grey,
        "the same, blurred by 3 px": gaussian_blur2d(images, (19, 19), (3.0, 3.0)),
        "the same, red and blue swapped": images.flip(1),
        "the same, inverted": -images,
    }


def _jpeg(images: Tensor, quality: int) -> Tensor:
    def compress(image: Tensor) -> Tensor:
        file = io.BytesIO()
        Image.fromarray(((image + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()).save(
            file, "JPEG", quality=quality
        )
        return torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) / 127.5 - 1

    return torch.stack([compress(image) for image in images])


def _artificial_images(size: tuple[int, int], number: int = 30) -> dict[str, Tensor]:
    """Make artificial images: textures of two random colours, noise, and uniform colours."""
    y, x = torch.meshgrid(*(torch.linspace(0, 1, side) for side in size), indexing="ij")
    textures: dict[str, list[Tensor]] = {}
    for i in range(number):
        generator = keyed_generator("texture", i)
        angle, waves, tiles = (torch.rand(3, generator=generator) * torch.tensor([3.14, 14.0, 10.0])).tolist()
        along = x * math.cos(angle) + y * math.sin(angle)
        cloud = sum(
            F.interpolate(torch.rand(1, 1, cells, cells, generator=generator), size, mode="bicubic")[0, 0] / cells
            for cells in (3, 5, 9, 17)
        )
        shapes = {
            "stripes": (along * (2 + waves) % 1 > 0.5).float(),
            "checkerboard": ((x * (2 + tiles)).floor() + (y * (2 + tiles)).floor()) % 2,
            "clouds": (cloud - cloud.min()) / (cloud.max() - cloud.min()),
            "gradient": along.clamp(0, 1),
            "one colour": torch.zeros(size),
        }
        colours = torch.rand(2, 3, 1, 1, generator=generator) * 2 - 1
        for name, shape in shapes.items():
            textures.setdefault(name, []).append(colours[0] + (colours[1] - colours[0]) * shape)
        textures.setdefault("noise", []).append(torch.rand(3, *size, generator=generator) * 2 - 1)
    synthetic = SyntheticDataModule(image_size=size)
    synthetic.setup("test")
    flat = {name: torch.full((1, 3, *size), value) for name, value in (("black", -1.0), ("white", 1.0))}
    made = {name: torch.stack(images) for name, images in textures.items()}
    return made | flat | {"synthetic lesions": _images(synthetic, synthetic.test_dataloader())}


def _print_table(scores: Mapping[str, Score], sets: Mapping[str, Tensor]) -> None:
    print(f"| images | n | {' | '.join(scores)} |")
    print("|---" * (2 + len(scores)) + "|")
    familiar = {name: score(next(iter(sets.values())))[0] for name, score in scores.items()}
    for kind, images in sets.items():
        cells = []
        for name, score in scores.items():
            distance, warned = score(images)
            values = torch.cat([familiar[name], distance]).double().numpy()
            auc = separation(values, np.repeat([0, 1], [len(familiar[name]), len(distance)]))
            cells.append(f"{auc:.3f}, {float(warned.float().mean()):.0%}")
        print(f"| {kind} | {len(images)} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
