"""Stacks of slices that are learned together, and cases that are evaluated whole."""

import numpy as np
import torch
from helpers.mri_files import SIZE, data_module, write_layout, write_nifti
from hypothesis import given, strategies as st

from diffmedseg.data.sampler import StackSampler, TrainingSampler
from diffmedseg.reading.slice_input import SliceInput


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=4), depth=st.integers(1, 8), seed=st.integers(0, 3))
def test_stacks_hold_the_drawn_slice_and_stay_in_its_case(lengths, depth, seed):
    cases = [str(case) for case, length in enumerate(lengths) for _ in range(length)]
    drawn = TrainingSampler(len(cases), 20, seed)
    dealt, sampler = list(StackSampler(drawn, cases, depth, seed)), StackSampler(drawn, cases, depth, seed)
    assert dealt == list(sampler)
    assert len(dealt) == len(sampler) == 20 * depth
    for number, (index, draw) in enumerate(drawn):
        stack = dealt[number * depth : (number + 1) * depth]
        indices = [one for one, _ in stack]
        assert index in indices
        assert {own for _, own in stack} == {draw}
        assert {cases[one] for one in indices} == {cases[index]}
        length = min(cases.count(cases[index]), depth)
        assert indices[:length] == list(range(indices[0], indices[0] + length))
        assert set(indices[length:]) <= {indices[length - 1]}


def test_batches_are_stacks_and_whole_cases(tmp_path):
    write_layout("brats2015", tmp_path)
    data = data_module("brats2015", tmp_path, depth=4, batch_size=3, steps_per_epoch=5, patch=8, folds=3)
    assert data.info.slice_input == SliceInput(depth=4)
    data.prepare_data()
    data.setup("fit")
    data.setup("test")
    for batch in data.train_dataloader():
        assert batch["image"].shape == (12, 2, 8, 8)
        for first in range(0, 12, 4):
            assert len(set(batch["draw"][first : first + 4])) == 1
            numbers = [int(name.rsplit("_", 1)[1]) for name in batch["id"][first : first + 4]]
            assert numbers == list(range(numbers[0], numbers[0] + 4))
        changed = data.on_after_batch_transfer(batch, 0)
        assert changed["image"].shape == (12, 2, 8, 8)
    tested = list(data.test_dataloader())
    assert [set(batch["case"]) for batch in tested] == [{case} for case in data.split_ids["test"]]
    assert all((np.diff(batch["index"]) == 1).all() for batch in tested)


def test_all_slices_of_a_stack_are_moved_alike(tmp_path):
    """A volume whose slices are all the same stays one when it is cut and augmented."""
    flat = np.broadcast_to(np.random.default_rng(0).uniform(50, 200, SIZE[1:]), SIZE).copy()
    flat[:, :2] = 0
    for number in range(3):
        write_nifti(tmp_path / "images" / f"p{number}.nii.gz", flat, np.float32)
        write_nifti(tmp_path / "masks" / f"p{number}.nii.gz", flat > 150, np.uint8)
    data = data_module("volumes", tmp_path, depth=4, batch_size=2, steps_per_epoch=3, patch=8, folds=3)
    data.prepare_data()
    data.setup("fit")
    stacks = []
    for batch in data.train_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        for first in (0, 4):
            image, mask = (batch[name][first : first + 4] for name in ("image", "mask"))
            assert torch.equal(image, image[:1].expand_as(image))
            assert torch.equal(mask, mask[:1].expand_as(mask))
            stacks.append(image[0])
    assert not torch.equal(stacks[0], stacks[1])


def test_a_network_of_volumes_is_shown_slices_without_brain_between_others(tmp_path):
    for number in range(3):
        values = np.random.default_rng(number).uniform(50, 200, SIZE)
        values[:, [0, -1]], values[:, :, [0, -1]], values[[0, 3]] = 0, 0, 0
        write_nifti(tmp_path / "images" / f"p{number}.nii.gz", values, np.float32)
        write_nifti(tmp_path / "masks" / f"p{number}.nii.gz", np.zeros(SIZE), np.uint8)
    single, stacked = (data_module("volumes", tmp_path, folds=3, depth=depth).load("test") for depth in (0, 4))
    assert [single.position(index) for index in range(len(single))] == [1, 2, 4, 5]
    assert [stacked.position(index) for index in range(len(stacked))] == [1, 2, 3, 4, 5]
