"""Write a folder of pseudo masks."""

import csv
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, astuple, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image
from rich.progress import track
from torch import Tensor

from diffmedseg.atomic import write_whole
from diffmedseg.configurable import to_config
from diffmedseg.data.base import SegmentationDataModule, Split
from diffmedseg.data.labels.deciding import Decided
from diffmedseg.data.labels.supervision import SUPERVISION
from diffmedseg.data.pseudo import TABLE, TRUE, PseudoMask, read_table
from diffmedseg.data.store import ImageStore, to_bytes, to_signed
from diffmedseg.errors import DataError
from diffmedseg.figures import MASK, UNSURE, draw_legend, legend_of, outline, save_figure, set_title, show
from diffmedseg.files import read_json
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.pseudo.proposers import Council
from diffmedseg.segmentation import majority

#: Name of the data yaml for `diffmedseg train`. It is written last, so that a folder with it is complete.
DATA = "data.yaml"
_SETTINGS, _PART, _SHEET = "settings.json", "pseudo.part.csv", "sheet.png"
_SPLITS: tuple[Split, ...] = ("train", "val")
#: Settings of the data module that the student's data keeps.
_SHARED = ("image_size", "batch_size", "eval_batch_size", "steps_per_epoch", "num_workers", "augment", "patch")


@dataclass(frozen=True)
class Order:
    """Settings of a folder of pseudo masks.

    Attributes:
        council: The proposers.
        data: The data set. Its training and validation images get pseudo masks; the test set does not change.
        facts: Facts in the data set's yaml beside the data module, such as tags.
        true_masks: Number of training images that keep their true masks.
        seed: Seed of the choice of these images.
        settings: All other settings with an effect on the masks. They identify the folder.
        batch_size: Images per batch; it does not change results.
    """

    council: Council
    data: SegmentationDataModule
    facts: Mapping[str, Any]
    true_masks: int
    seed: int
    settings: Mapping[str, Any]
    batch_size: int = 16


def write_pseudo_masks(order: Order, folder: Path) -> list[PseudoMask]:
    """Write pseudo masks, or resume an interrupted call with the same order.

    Args:
        order: The settings.
        folder: The folder; it is made if it does not exist.

    Returns:
        A row for each training and validation image.

    Raises:
        DataError: If the folder has other content, there are fewer diseased images than ``true_masks``, or no mask of a
            split is kept.
    """
    rows = _begin(order, folder)
    if rows and (folder / DATA).is_file():
        return rows
    order.data.prepare_data()
    stores = {split: order.data.load(split) for split in _SPLITS}
    true = _choose_true(stores["train"], order.true_masks, order.seed)
    for split, store in stores.items():
        rows, batches = _plan(order, folder, split, store, rows)
        for batch in track(batches, f"Proposing masks for {split}", disable=len(batches) < 20):
            rows += _write_batch(order, folder, split, store, batch, true)
        if not any(row.kept == "yes" for row in rows if row.split == split):
            first = next((row.reason for row in rows if row.split == split), "")
            raise DataError(f"No mask of the {split} split is kept (the first: {first}). Widen mask_rule.plausible.")
    names, files = {row.id for row in rows}, {row.file for row in rows}
    # A name may be in both splits, if validation images of small data are training images.
    if len({(row.split, row.id) for row in rows}) < len(rows) or len(files) < len(names):
        raise DataError(f"Names of images in {order.data.info.title} occur twice. Rename images: names must be unique.")
    write_whole(folder / SUPERVISION, lambda path: path.write_text(_supervision(order) + "\n", encoding="utf-8"))
    save_figure(draw_kept(stores, rows, folder), folder / _SHEET)
    write_whole(folder / TABLE, partial(_write_table, rows))
    write_whole(folder / DATA, lambda path: path.write_text(_data_yaml(order, folder), encoding="utf-8"))
    (folder / _PART).unlink(missing_ok=True)
    return rows


def _plan(
    order: Order, folder: Path, split: Split, store: ImageStore, rows: list[PseudoMask]
) -> tuple[list[PseudoMask], list[list[int]]]:
    """Return the rows to keep, and the batches of images that have no row yet.

    A rule over slices needs whole cases: a case of which a row is missing is proposed again.
    """
    written = {row.id for row in rows if row.split == split}
    todo = [index for index in range(len(store)) if store.ids[index] not in written]
    if order.council.rule.over_slices is None:
        return rows, [todo[first : first + order.batch_size] for first in range(0, len(todo), order.batch_size)]
    cases: dict[str, list[int]] = {store.cases[index]: [] for index in todo}
    for index, case in enumerate(store.cases):
        if case in cases:
            cases[case].append(index)
    whole = [row for row in rows if row.split != split or row.case not in cases]
    if len(whole) < len(rows):
        write_whole(folder / _PART, partial(_write_table, whole))
    return whole, list(cases.values())


def _supervision(order: Order) -> str:
    return order.council.supervision(order.true_masks)


def _begin(order: Order, folder: Path) -> list[PseudoMask]:
    """Make the folder, or return the finished rows of an existing folder."""
    settings = json.dumps(
        {"supervision": _supervision(order), "data": to_config(order.data), **order.settings}, indent=1
    )
    path = folder / _SETTINGS
    if path.is_file():
        if read_json(path) != json.loads(settings):
            raise DataError(f"{folder} has pseudo masks of other settings ({path}). Name another folder.")
        if (folder / DATA).is_file():
            return read_table(folder / TABLE)
        rows = read_table(folder / _PART) if (folder / _PART).is_file() else []
        write_whole(folder / _PART, partial(_write_table, rows))  # without an incomplete line
        return rows
    if folder.is_dir() and any(folder.iterdir()):
        raise DataError(f"{folder} has other files than pseudo masks. Name a new folder.")
    for name in ("masks", "unsure", "images"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    write_whole(folder / _PART, partial(_write_table, []))
    write_whole(path, lambda temporary: temporary.write_text(settings, encoding="utf-8"))
    return []


def _choose_true(store: ImageStore, number: int, seed: int) -> set[str]:
    """Choose the training images that keep their true masks, from the images without the label healthy."""
    diseased = [index for index in range(len(store)) if store.label(index) != 0] if number else []
    if number > len(diseased):
        raise DataError(
            f"{number} true masks are requested; the training split has {len(diseased)} diseased images. Use a smaller "
            "--true_masks."
        )
    order = torch.randperm(len(diseased), generator=keyed_generator(seed, "true masks")).tolist()
    return {store.ids[diseased[i]] for i in order[:number]}


def _write_batch(
    order: Order, folder: Path, split: Split, store: ImageStore, indices: list[int], true: set[str]
) -> list[PseudoMask]:
    """Write the files of some images, and then their rows. So a row in the table means that its files are complete."""
    images = torch.stack([to_signed(store.image(index)) for index in indices])
    rows = []
    for image, proposal, index in zip(images, propose(order.council, store, indices, images), indices, strict=True):
        source, decided = _choose(store, index, proposal, store.ids[index] in true)
        row = PseudoMask(
            store.ids[index], store.cases[index], split, re.sub(r"[^\w.-]", "_", f"{store.ids[index]}"),
            "no" if decided.objection else "yes", source, decided.objection or "",
            f"{decided.mask.mean():.5f}", f"{decided.unsure.mean():.5f}",
        )  # fmt: skip
        if row.kept == "yes":
            _save(folder / "masks" / f"{row.file}.png", decided.mask)
            _save(folder / "unsure" / f"{row.file}.png", decided.unsure)
            if len(image) in (1, 3):  # a picture; images with other channels are only in the data set itself
                _save_image(folder / "images" / f"{row.file}.png", image)
        rows.append(row)
    with (folder / _PART).open("a", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(astuple(row) for row in rows)
    return rows


def propose(council: Council, store: ImageStore, indices: Sequence[int], images: Tensor) -> list[Decided]:
    """Propose the masks of some images of a store.

    Args:
        council: The proposers.
        store: The images.
        indices: Numbers of the images. If the rule decides over slices, these are the slices of one case.
        images: The images, (B, C, H, W), in [-1, 1].

    Returns:
        A decision for each image. Slices with the label healthy take no part in a decision over slices.
    """
    keys = [store.ids[index] for index in indices]
    if council.rule.over_slices is None:
        return council.decide(images, keys)
    nothing = np.zeros(tuple(images.shape[-2:]), dtype=np.bool_)
    decided = [Decided(nothing, nothing)] * len(indices)
    rows = [row for row, index in enumerate(indices) if store.label(index) != 0]
    if rows:
        positions = [store.position(indices[row]) for row in rows]
        together = council.decide(images[rows], [keys[row] for row in rows], positions)
        for row, decision in zip(rows, together, strict=True):
            decided[row] = decision
    return decided


def _choose(store: ImageStore, index: int, proposed: Decided, true: bool) -> tuple[str, Decided]:
    """Return where a mask comes from, and the mask."""
    nothing = np.zeros_like(proposed.mask)
    if true:
        mask = majority(store.masks(index))[0].numpy().astype(np.bool_)
        return TRUE, Decided(mask, nothing)
    if store.label(index) == 0:
        return "label", Decided(nothing, nothing)
    return "pseudo", proposed


def _save(path: Path, mask: NDArray[np.bool_]) -> None:
    picture = Image.fromarray(mask.astype(np.uint8) * 255)
    write_whole(path, lambda temporary: picture.save(temporary, format="PNG"))


def _save_image(path: Path, image: Tensor) -> None:
    levels = to_bytes(image).permute(1, 2, 0).numpy()
    picture = Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
    write_whole(path, lambda temporary: picture.save(temporary, format="PNG"))


def _write_table(rows: list[PseudoMask], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, [field.name for field in fields(PseudoMask)])
        writer.writeheader()
        writer.writerows(asdict(row) for row in rows)


def _data_yaml(order: Order, folder: Path) -> str:
    """Return the yaml of the student's data: pseudo masks for training, and the true masks of the test set."""
    truth = to_config(order.data)
    shared = {name: truth["init_args"][name] for name in _SHARED if name in truth["init_args"]}
    arguments = {"folder": str(folder.resolve()), "truth": truth, **shared}
    data = {"class_path": "diffmedseg.data.PseudoMaskDataModule", "init_args": arguments}
    head = f"# Supervision: {_supervision(order)}. Train: diffmedseg train medsegdiff-lite {DATA}\n"
    return head + yaml.safe_dump({**order.facts, "data": data}, sort_keys=False, allow_unicode=True)


def draw_kept(
    stores: Mapping[Split, ImageStore], rows: list[PseudoMask], folder: Path, number: int = 30, columns: int = 10
) -> Figure:
    """Draw a contact sheet: kept masks with their unsure pixels, then images without a kept mask, with the reason.

    Args:
        stores: The images.
        rows: The row of each image.
        folder: Folder of the masks.
        number: Maximum number of images of each kind, evenly spread.
        columns: Images per row.
    """
    chosen = []
    for kept in ("yes", "no"):
        matches = [row for row in rows if row.kept == kept]
        chosen += [matches[i * len(matches) // min(number, len(matches))] for i in range(min(number, len(matches)))]
    figure = Figure(figsize=(1.3 * columns, 1.6 * -(-len(chosen) // columns) + 0.3), layout="constrained")
    axes = list(figure.subplots(-(-len(chosen) // columns), columns, squeeze=False).flat)
    number_of = {(split, name): index for split, store in stores.items() for index, name in enumerate(store.ids)}
    for axis, row in zip(axes, chosen, strict=False):
        split: Split = "train" if row.split == "train" else "val"
        show(axis, to_signed(stores[split].image(number_of[split, row.id])))
        for kind, line in (("masks", MASK), ("unsure", UNSURE)) if row.kept == "yes" else ():
            values = np.asarray(Image.open(folder / kind / f"{row.file}.png")) > 0
            outline(axis, torch.from_numpy(values)[None], line)
        set_title(axis, f"{row.id}: {row.source if row.kept == 'yes' else row.reason}", 1.2, 5)
    for axis in axes[len(chosen) :]:
        axis.axis("off")
    draw_legend(figure, legend_of([(MASK, "pseudo mask"), (UNSURE, "edge of what is unsure")], [""]))
    return figure
