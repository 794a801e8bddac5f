from collections import Counter

import pytest
import torch

from diffmedseg.data import Augmentation, SyntheticDataModule
from diffmedseg.data.store import ImageStore
from diffmedseg.data.synthetic import HEALTHY, MODE_PROBABILITIES, SyntheticStore
from diffmedseg.data.views import EvaluationView, TrainingView, collate
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.segmentation import majority


def make(**options):
    return SyntheticDataModule(
        num_train=12, num_val=4, num_test=5, image_size=32, batch_size=4, steps_per_epoch=3, **options
    )


def batches(data, stage, loader):
    data.setup(stage)
    return [data.on_after_batch_transfer(batch, 0) for batch in getattr(data, loader)()]


def test_images_are_a_function_of_their_name():
    a, b = (SyntheticStore("test", 3, (32, 32), 4, False) for _ in range(2))
    assert torch.equal(a.image(2), b.image(2))
    assert torch.equal(a.masks(2), b.masks(2))
    assert not torch.equal(a.image(1), a.image(2))
    assert not torch.equal(a.image(0), SyntheticStore("val", 3, (32, 32), 4, False).image(0))


def test_raters_follow_the_known_distribution():
    store = SyntheticStore("train", 500, (16, 16), 4, False)
    frequency = Counter(mode for modes in store.rater_modes for mode in modes)
    for mode, probability in enumerate(MODE_PROBABILITIES):
        assert frequency[mode] / 2000 == pytest.approx(probability, abs=0.03)
    healthy = sum(store.label(i) == 0 for i in range(500)) / 500
    assert healthy == pytest.approx(HEALTHY, abs=0.04)


def test_rater_masks_are_mode_masks_and_some_are_empty():
    store = SyntheticStore("train", 60, (32, 32), 4, False)
    empty = 0
    for i in range(60):
        truth = store.mode_masks(i, (32, 32))
        assert torch.equal(store.masks(i), truth[store.rater_modes[i]])
        assert (truth[0] <= truth[1]).all()  # the core lies in the halo
        empty += int(store.label(i) == 1 and not store.masks(i).flatten(1).any(1).all())
    assert empty > 5


def test_lesions_are_darker_than_skin():
    store = SyntheticStore("train", 20, (32, 32), 4, False)
    for i in range(20):
        halo = store.mode_masks(i, (32, 32))[1, 0].bool()
        if halo.any():
            grey = store.image(i).float().mean(0)
            assert grey[halo].mean() < grey[~halo].mean() - 20


def test_second_region_nests():
    data = make(nested=True)
    assert data.info.regions == ("lesion", "nucleus")
    assert make().info.regions == ("lesion",)
    data.setup("test")
    for i in range(5):
        masks = data.stores["test"].reference(i)
        assert masks.shape[1:] == (2, 64, 64)
        assert (masks[:, 1] <= masks[:, 0]).all()


def test_training_batches():
    loaded = batches(make(), "fit", "train_dataloader")
    assert len(loaded) == 3
    for batch in loaded:
        assert batch["image"].shape == (4, 3, 32, 32)
        assert batch["image"].min() >= -1
        assert batch["image"].max() <= 1
        assert set(batch["mask"].unique().tolist()) <= {0, 1}
        assert "raters" not in batch
    assert [draw for batch in loaded for draw in batch["draw"]] == list(range(12))


def test_training_batches_with_all_raters():
    """All masks go through the same geometry, and the drawn mask is what it is without the others."""
    data, alone = make(), batches(make(), "fit", "train_dataloader")
    data.setup("fit")
    assert data.configure_targets(("mask", "raters"), ("lesion",)) == "masks"
    moved = [data.on_after_batch_transfer(batch, 0) for batch in data.train_dataloader()]
    for batch, other in zip(moved, alone, strict=True):
        assert batch["raters"].shape == (4, 4, 1, 32, 32)
        assert batch["rater_valid"].all()
        assert torch.equal(batch["mask"], other["mask"])
        assert torch.equal(batch["image"], other["image"])
        assert (batch["raters"] == batch["mask"][:, None]).flatten(2).all(2).any(1).all()
    data.configure_targets(("mask",), ("lesion",))
    assert "raters" not in next(iter(data.train_dataloader()))


def test_patches_cut_all_raters_alike():
    view = TrainingView(SyntheticStore("train", 3, (32, 32), 4, False), seed=0, patch=16, all_raters=True)
    for draw in range(3):
        item = view[draw, draw]
        assert item["image"].shape[1:] == item["mask"].shape[1:] == item["raters"].shape[2:] == (16, 16)
        assert any(torch.equal(mask, item["mask"]) for mask in item["raters"])


def test_evaluation_batches():
    loaded = batches(make(), "test", "test_dataloader")
    assert sorted(name for batch in loaded for name in batch["id"]) == [f"test-{i:04d}" for i in range(5)]
    first = loaded[0]
    assert first["raters"].shape == (5, 4, 1, 32, 32)
    assert first["rater_valid"].all()
    assert first["reference"][0].shape == (4, 1, 64, 64)
    assert torch.equal(first["mask"][0], majority(first["raters"][0]).float())


def test_training_draws_one_rater_anew():
    view = TrainingView(SyntheticStore("train", 30, (32, 32), 4, False), seed=0)
    index = next(i for i in range(30) if len(set(view.store.rater_modes[i])) == 3)
    seen = {int(view[index, draw]["mask"].sum()) for draw in range(40)}
    assert len(seen) == 3
    assert torch.equal(view[index, 7]["mask"], view[index, 7]["mask"])


def test_unequal_numbers_of_raters_are_padded_and_marked():
    class Store(ImageStore):
        ids = cases = ("a", "b")

        def image(self, index):
            return torch.zeros(1, 4, 4)

        def masks(self, index):
            return torch.ones(index + 1, 1, 4, 4, dtype=torch.uint8)

        reference = masks

    view = EvaluationView(Store())
    batch = collate([view[0], view[1]])
    assert batch["rater_valid"].tolist() == [[True, False], [True, True]]
    assert batch["raters"][0, 1].sum() == 0
    assert [len(r) for r in batch["reference"]] == [1, 2]


def generators(n):
    return [keyed_generator("augmentation", i) for i in range(n)]


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_augmentation_moves_image_and_mask_together(size):
    augment = Augmentation(brightness=0, contrast=0)
    square = torch.zeros(8, 1, *size)
    square[:, :, 8:18, 10:26] = 1
    image, mask = augment(square.expand(-1, 3, -1, -1), square, generators(8))
    assert set(mask.unique().tolist()) == {0, 1}
    assert len({tuple(row.flatten().tolist()) for row in mask}) == 8
    assert ((image[:, :1] > 0.5).float() - mask).abs().mean() < 0.03
    area = mask.sum((1, 2, 3)) / square[0].sum()
    assert (area > 0.5).all()  # a similarity within the zoom's limits, whatever the aspect
    assert (area < 1.6).all()


def test_flips_alone_are_exact():
    augment = Augmentation(degrees=0, translate=0, scale=0, brightness=0, contrast=0)
    image, mask = torch.rand(12, 3, 16, 16), (torch.rand(12, 1, 16, 16) > 0.5).float()
    flipped, flipped_mask = augment(image, mask, generators(12))
    seen = set()
    for i in range(12):
        for dims in ((), (-1,), (-2,), (-2, -1)):
            if torch.equal(flipped_mask[i], mask[i].flip(dims)):
                seen.add(dims)
                torch.testing.assert_close(flipped[i], image[i].flip(dims), atol=1e-4, rtol=0)
    assert len(seen) >= 3


def test_no_augmentation_is_the_identity():
    augment = Augmentation(flip=0, probability=0)
    image, mask = torch.rand(3, 3, 17, 23), (torch.rand(3, 1, 17, 23) > 0.5).float()
    same, same_mask = augment(image, mask, generators(3))
    torch.testing.assert_close(same, image, atol=1e-4, rtol=0)
    assert torch.equal(same_mask, mask)


def test_augmentation_is_keyed_by_draw_not_by_batch():
    data = make()
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    torch.manual_seed(5)
    together = data.on_after_batch_transfer(dict(batch), 0)["image"]
    for i in range(4):
        alone = {name: batch[name][i : i + 1] for name in ("image", "mask", "draw")}
        torch.testing.assert_close(
            data.on_after_batch_transfer(alone, 0)["image"], together[i : i + 1], atol=1e-5, rtol=0
        )


def test_evaluation_is_not_augmented():
    data = make()
    batch = batches(data, "test", "test_dataloader")[0]
    torch.testing.assert_close((batch["image"][0] + 1) * 127.5, data.stores["test"].image(0).float(), atol=1e-3, rtol=0)


def test_native_masks_stay_on_the_cpu():
    data = make()
    data.setup("test")
    batch = data.transfer_batch_to_device(next(iter(data.test_dataloader())), torch.device("meta"), 0)
    assert batch["image"].device.type == "meta"
    assert all(reference.device.type == "cpu" for reference in batch["reference"])


@pytest.mark.parametrize("options", [{"image_size": 4}, {"batch_size": 0}, {"steps_per_epoch": 0}, {"num_test": 0}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SyntheticDataModule(**options)
