"""A test gives a model its images as training did."""

import pytest
import yaml
from helpers.nnunet_files import CASES, hounsfield, write_ct, write_volume, write_volumes

from diffmedseg import load_checkpoint
from diffmedseg.cli import main
from diffmedseg.data.configured import build_data
from diffmedseg.errors import DataError
from diffmedseg.evaluation.trained_input import check_input
from diffmedseg.experiments import data_config
from diffmedseg.reading.slice_input import SliceInput

TINY = [
    "--data.image_size=16", "--data.batch_size=2", "--data.steps_per_epoch=2", "--data.folds=2",
    "--trainer.max_steps=2", "--trainer.accelerator=cpu", "--model.num_samples=2", "--model.num_steps=2",
]  # fmt: skip


def info_of(root, **settings):
    config = data_config("nnunet")
    config["init_args"] |= {"root": str(root), **settings}
    return build_data(config).info


def test_ct_of_another_clinic_is_scaled_as_the_training_data(tmp_path):
    """Each data set has percentiles of its own; a test with these would show the model other images than predict."""
    trained, other = (write_ct(tmp_path / f"Dataset00{n}_CT") for n in (1, 2))
    for number, case in enumerate(CASES):
        write_volume(other / "imagesTr" / f"{case}_0000.nii.gz", hounsfield(number) + 500)
    runs = tmp_path / "runs"
    main(["train", "supervised", "nnunet", f"--data.root={trained}", f"--runs={runs}", *TINY])
    run = runs / "supervised-nnunet" / "version_0"
    main(["evaluate", str(run), f"--data.root={other}"])
    tested = yaml.safe_load(next(runs.glob("*/test_0/config.yaml")).read_text())["data"]["init_args"]["ranges"]
    model = load_checkpoint(next((run / "checkpoints").glob("*.ckpt")))
    assert SliceInput(ranges=tested).ranges == model.slice_input.ranges
    assert info_of(other, folds=2).slice_input.ranges != model.slice_input.ranges


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"modalities": ["T1", "FLAIR"]}, "channels of the model are FLAIR, T1, and those of the test data T1, FLAIR"),
        ({"regions": ["core", "whole_tumour", "enhancing"]}, "in the order of the model"),
        ({"square_pixels": True}, "trained with square_pixels False, and the test data has True"),
        ({"context": 1}, "Give --data.context as in training"),
        ({"ranges": {"T1": [0, 100]}}, "Give --data.ranges as in training"),
    ],
)
def test_images_that_are_shown_in_another_way_are_refused(settings, said, tmp_path):
    root = write_volumes(tmp_path / "Dataset001_Brain", CASES[:2])
    info = info_of(root)
    trained = {"channels": list(info.channels), "regions": list(info.regions), "slice_input": None}
    check_input(trained, info)
    with pytest.raises(DataError, match=said):
        check_input(trained, info_of(root, **settings))


def test_a_distance_of_neighbours_other_than_in_training_is_refused(tmp_path):
    root = write_volumes(tmp_path / "Dataset001_Brain", CASES[:2])
    stored = {"slice_input": {"context": 1, "distance": 3.0, "ranges": {}, "depth": 0, "square_pixels": False}}
    check_input(stored, info_of(root, context=1, context_distance=3))
    with pytest.raises(DataError, match=r"context_distance 3\.0, and the test data has null"):
        check_input(stored, info_of(root, context=1))


def test_other_names_are_a_warning_only(tmp_path, caplog):
    info = info_of(write_volumes(tmp_path / "Dataset001_Brain", CASES[:2]))
    check_input({"channels": ["flair", "t1"]}, info)
    assert "make sure that they are the same" in caplog.text
