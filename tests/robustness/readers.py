"""The readers that are fuzzed, with their shares of all inputs."""

import os
from collections.abc import Callable
from pathlib import Path

import torch

from robustness import project_files, seeds
from robustness.command_line import argument_lists, mutate_arguments, read_arguments, read_settings, setting_lists
from robustness.worker import Reader


def all_readers() -> list[Reader]:
    """Return the readers; their seeds are made now, in this process."""
    import SimpleITK as sitk

    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)  # threads would not survive the fork
    torch.set_num_threads(1)  # a process that has computed with more hangs after a fork
    return [*_of_pictures(), *_of_volumes(), *_of_zoo(), *_of_text(), *_of_runs(), *_of_command_line()]


def _of_pictures() -> list[Reader]:
    from diffmedseg.evaluation.mask_folders import read_mask
    from diffmedseg.prediction.pictures.files import find_pictures
    from diffmedseg.reading.drawn import read_nested_outlines
    from diffmedseg.reading.masks import MaskReader
    from diffmedseg.reading.opening import image_size, stored_orientation
    from diffmedseg.reading.pictures import read_picture, read_upright
    from diffmedseg.reading.slices import read_slice, slice_size, to_grey_levels

    def header(path: Path) -> object:
        return image_size(path), stored_orientation(path)

    return [
        Reader("picture", seeds.pictures(), lambda path: read_picture(path, 3, (8, 8)), 40),
        Reader("grey_picture", seeds.pictures(), lambda path: read_picture(path, 1, (8, 8), (0, 255)), 10),
        Reader("upright_picture", seeds.pictures(), lambda path: read_upright(path, 16, None), 5),
        Reader("picture_header", seeds.pictures(), header, 5),
        Reader("found_picture", seeds.pictures(), lambda path: find_pictures([path.parent]), 2),
        Reader("mask", [*seeds.masks(), *seeds.pictures()], read_mask, 20),
        Reader("mask_to_learn", [*seeds.masks(), *seeds.pictures()], lambda path: MaskReader([path]).read(path), 10),
        Reader("mask_of_layout", seeds.masks(), _read_own_masks(), 10),
        Reader("outlines", seeds.outlines(), _fill_all, 5),
        Reader("drawn", seeds.drawn(), lambda path: read_nested_outlines(path, path.with_name("prime.png")), 3),
        Reader("slice", seeds.slices(), lambda path: (slice_size(path), to_grey_levels(read_slice(path), None)), 5),
        Reader("agreement", seeds.agreement(), _read_agreement, 3),
    ]


def _fill_all(path: Path) -> object:
    from diffmedseg.reading.outlines import fill_outlines, read_outlines

    return [fill_outlines(found, (24, 30), path) for found in read_outlines(path).values()]


def _read_agreement(path: Path) -> object:
    from diffmedseg.data.pictures import PictureCase
    from diffmedseg.data.pictures.agreement import AgreementMasks

    return AgreementMasks(4).read(PictureCase("a", "a", path, (((path,),) * 4)))


def _read_own_masks() -> Callable[[Path], object]:
    from diffmedseg.data.pictures import FileNames, PictureCase

    layout = FileNames(r"(?P<id>.+)", {"lesion": ["{id}"]})

    def read(path: Path) -> object:
        case = PictureCase("a", "a", path, ((path,),))
        return layout.reader([case]).read(case)

    return read


def _of_volumes() -> list[Reader]:
    from diffmedseg.evaluation.mask_folders import read_mask
    from diffmedseg.reading.dicom import find_series
    from diffmedseg.reading.volumes import count_volumes, grid_note, read_volumes, to_labels

    def with_note(path: Path) -> object:
        return count_volumes(path), read_volumes(path), grid_note(path)

    def labels(path: Path) -> object:
        return [to_labels(volume, {1, 2, 4}, path) for volume in read_volumes(path)]

    return [
        Reader("nifti", seeds.niftis(), with_note, 14),
        Reader("labels", seeds.volume_masks(), labels, 4),
        Reader("volume_mask", seeds.volume_masks(), read_mask, 4),
        Reader("meta_image", seeds.meta_images(), with_note, 5),
        Reader("dicom", seeds.dicom_series(), lambda path: find_series(path.parent).read(), 4),
    ]


def _of_zoo() -> list[Reader]:
    from diffmedseg.zoo.loading import load_entry, load_verified
    from diffmedseg.zoo.registry import read_registry
    from diffmedseg.zoo.source import Source

    name = project_files.ENTRY

    def entry(path: Path) -> object:
        return load_entry(Source(path.parents[1] if path.parent.name == name else path.parent), name)

    def unchecked(path: Path) -> object:
        """Load what has the hash that its registry says: whoever can write one can write the other."""
        return load_verified(name, path.parent, project_files.registry_entry())

    zoo, parts = project_files.zoo(), project_files.entry_files()
    return [
        Reader("registry", [{"registry.yaml": zoo["registry.yaml"]}], read_registry, 6),
        Reader("zoo_entry", seeds.each_first(zoo), entry, 0.5),
        Reader("zoo_config", [{"config.yaml": parts["config.yaml"], **parts}], unchecked, 0.5),
        Reader("zoo_weights", [{"model.safetensors": parts["model.safetensors"], **parts}], unchecked, 1),
    ]


def _of_text() -> list[Reader]:
    from diffmedseg.data.catalogue import dataset_info
    from diffmedseg.data.pictures.rater_files import read_patients
    from diffmedseg.data.pictures.windows import read_windows
    from diffmedseg.data.splits import read_lists, read_splits
    from diffmedseg.experiments import data_config
    from diffmedseg.metrics.table import read_cases
    from diffmedseg.recipes import recipe

    def splits(path: Path) -> object:
        return read_splits(path, project_files.CASES, project_files.DRAWN)

    def windows(path: Path) -> object:
        return read_windows(path), read_windows(path, {f"p{n}": (30, 40) for n in range(4)})

    def own_data(path: Path) -> object:
        return dataset_info(data_config(path))

    def own_model(path: Path) -> object:
        return recipe(path, "synthetic").arguments, recipe("medsegdiff-lite", "synthetic", preset=path).arguments

    return [
        Reader("splits", project_files.splits(), splits, 8),
        Reader("lists", seeds.lists(), lambda path: read_lists(path.parent, path.name), 4),
        Reader("patients", seeds.patients(), lambda path: read_patients(path, ("isic_id", "patient_id")), 4),
        Reader("windows", project_files.windows(), windows, 8),
        Reader("cases", project_files.cases(), read_cases, 6),
        Reader("own_data", project_files.recipes("data"), own_data, 2, trusts=True),
        Reader("own_model", project_files.recipes("model"), own_model, 2),
    ]


def _of_runs() -> list[Reader]:
    from diffmedseg.checkpoints import TO_RESUME, read_checkpoint
    from diffmedseg.cli.trusting import check_run
    from diffmedseg.data.configured import build_data
    from diffmedseg.data.lidc_pickle import convert_lidc
    from diffmedseg.data.mri.store import DecodedCase
    from diffmedseg.data.shrinking import ShrunkImages
    from diffmedseg.models.loading import best_checkpoint, read_run
    from diffmedseg.prediction.pictures.folder import PictureFolder
    from diffmedseg.run_log import RunLogger
    from diffmedseg.zoo.loading import load_checkpoint

    def settings(path: Path) -> object:
        config = read_run(path.parent)
        check_run(config, ())
        return build_data(config["data"])

    def predictions(path: Path) -> object:
        folder = PictureFolder(path.parent, project_files.model_of_a_lesion(), project_files.PREDICTED)
        with folder.opened(resume=True):
            return folder.is_whole("a", lambda: [])

    def replaced(path: Path) -> object:
        folder = PictureFolder(path.parent, project_files.model_of_a_lesion(), project_files.PREDICTED)
        with folder.opened(overwrite=True):
            folder.begin()

    def log(path: Path) -> object:
        return RunLogger(path.parent, 3).experiment.metrics_keys

    return [
        Reader("checkpoint", project_files.checkpoints(whole=False), lambda path: read_checkpoint(path, TO_RESUME), 4),
        Reader("model", project_files.checkpoints(whole=True), load_checkpoint, 0.5),
        Reader("run_settings", project_files.run_settings(), settings, 0.3),
        Reader("calibration", project_files.calibrated_run(), lambda path: best_checkpoint(path.parent), 4),
        Reader("predictions", project_files.predictions(), predictions, 5),
        Reader("replaced_predictions", project_files.predictions(), replaced, 2, changes=True),
        Reader("metrics", project_files.metrics(), log, 4, changes=True),
        Reader("cache", project_files.cached_images(), lambda path: ShrunkImages(path.parent), 4),
        Reader("cached_case", project_files.cached_case(), lambda path: DecodedCase(path.parent), 4),
        Reader("lidc_pickle", seeds.lidc_pickles(), lambda path: convert_lidc(path, _new_folder()), 4),
    ]


def _new_folder() -> Path:
    return Path(os.environ.get("TMPDIR", "/tmp")) / f"lidc-{os.urandom(6).hex()}"


def _of_command_line() -> list[Reader]:
    return [
        Reader("command_line", argument_lists(), read_arguments, 8, mutate_arguments, exits=True),
        Reader("settings", setting_lists(), read_settings, 0.05, mutate_arguments, exits=True),
    ]
