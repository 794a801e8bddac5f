"""Where labels come from, on drawn lesions of which everything is known."""

import numpy as np
import pytest
import torch
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import DataError, SyntheticDataModule
from diffmedseg.data.labels import BorderCrops, InpaintedPairs, MaskExcludedCrops, OwnLabels, OwnPairs
from diffmedseg.data.labels.applying import label_split
from diffmedseg.data.labels.balance import covariates, overlap_weights, propensity, separation
from diffmedseg.data.labels.inpainted import inpaint
from diffmedseg.data.labels.recipe import RelabelledStore
from diffmedseg.data.labels.worth import label_leakage, label_worth
from diffmedseg.data.store import ImageStore
from diffmedseg.data.synthetic import SyntheticStore
from diffmedseg.segmentation import majority


@pytest.fixture(scope="module")
def store():
    return SyntheticStore("train", 60, (48, 48), 4, nested=False)


def halos(store, index):
    """Everything that is diseased, whatever raters say."""
    return store.mode_masks(index, store.image_size)[1, 0].bool()


class Slices(ImageStore):
    """Two cases of slices: brain grows towards the middle, where tumours are."""

    def __init__(self, all_diseased=False, seed=0):
        rng = np.random.default_rng(seed)
        self.cases = ["a"] * 60 + ["b"] * 60
        self.ids = [f"{case}_{i}" for i, case in enumerate(self.cases)]
        self.places = [i % 60 for i in range(120)]
        chance = [0.9 if 20 <= i < 40 else 0.15 for i in self.places]
        self.labels = [1] * 120 if all_diseased else [int(rng.random() < p) for p in chance]

    def image(self, index):
        radius = 4 + 10 * np.sin(np.pi * (self.places[index] + 0.5) / 60)
        y, x = np.mgrid[:32, :32] - 15.5
        return torch.where(torch.from_numpy(y**2 + x**2 < radius**2), 0.1, -1.0)[None].float()

    def masks(self, index):
        return torch.full((1, 1, 32, 32), self.labels[index], dtype=torch.uint8)

    reference = masks

    def position(self, index):
        return self.places[index]

    def label(self, index):
        return self.labels[index]


def test_weights_hide_position_and_area():
    slices = Slices()
    labels = np.array(slices.labels)
    found = covariates(slices)
    assert separation(found["area"], labels) > 0.7
    weights = np.array(OwnLabels()(slices).weights)
    assert separation(found["area"], labels, weights) < 0.6
    for name in ("area", "position"):
        means = [np.average(found[name][labels == one], weights=weights[labels == one]) for one in (0, 1)]
        assert means[0] == pytest.approx(means[1], rel=0.02)
    assert [weights[labels == one].sum() for one in (0, 1)] == pytest.approx([1, 1])
    plain = np.array(OwnLabels(balance=False)(slices).weights)
    assert separation(found["area"], labels, plain) == pytest.approx(separation(found["area"], labels))
    assert [plain[labels == one].sum() for one in (0, 1)] == pytest.approx([1, 1])


def test_labels_that_can_be_told_without_error_still_have_weights():
    labels = np.array([0] * 5 + [1] * 5)
    weights = overlap_weights(propensity([np.arange(10.0)], labels), labels)
    assert np.isfinite(weights).all()
    assert min(weights) > 0


def test_separation_is_the_area_under_the_curve():
    rng = np.random.default_rng(0)
    scores, labels = rng.integers(0, 5, 80).astype(float), rng.integers(0, 2, 80)
    weights = rng.random(80)
    pairs = [
        (weights[i] * weights[j], (scores[i] > scores[j]) + (scores[i] == scores[j]) / 2)
        for i in np.flatnonzero(labels) for j in np.flatnonzero(labels == 0)
    ]  # fmt: skip
    brute = sum(w * won for w, won in pairs) / sum(w for w, _ in pairs)
    assert separation(scores, labels, weights) == pytest.approx(max(brute, 1 - brute))


class Heads(Slices):
    """The same with tumours in the lower left, and air around."""

    def masks(self, index):
        mask = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
        mask[..., 16:21, 11:16] = self.labels[index]
        return mask

    reference = masks


ALL = ["OwnLabels", "OwnPairs", "BorderCrops", "MaskExcludedCrops", "InpaintedPairs"]


@pytest.mark.parametrize(
    ("recipe", "data", "pairs", "found", "work"),
    [
        (OwnLabels(), "drawn", True, "OwnLabels gives no healthy counterparts", ["OwnPairs", "InpaintedPairs"]),
        (MaskExcludedCrops(), "drawn", True, "gives no healthy counterparts", ["OwnPairs", "InpaintedPairs"]),
        (BorderCrops(1), "drawn", False, "0 healthy and 0 diseased crops of 48", ALL),
        (OwnLabels(), Heads(all_diseased=True), False, "all are diseased", ["MaskExcludedCrops", "InpaintedPairs"]),
        (BorderCrops(), Heads(), False, "0 healthy", ["OwnLabels", "MaskExcludedCrops", "InpaintedPairs"]),
        (OwnPairs(), Heads(), True, "OwnPairs needs healthy counterparts", ["InpaintedPairs"]),
        (InpaintedPairs(), Slices(), True, "No training image has a lesion to fill in", []),
    ],
)  # fmt: skip
def test_what_a_recipe_cannot_label_is_refused_and_those_are_named_that_can(recipe, data, pairs, found, work, store):
    with pytest.raises(DataError, match=found) as refused:
        label_split(recipe, store if data == "drawn" else data, pairs)
    _, *lines = str(refused.value).splitlines()
    named = [line.split(",")[0].strip() for line in lines]
    assert named == [name for name in work if name != type(recipe).__name__]
    assert ("No recipe works" in str(refused.value)) == (not work)


def test_crops_are_no_larger_than_the_image():
    with pytest.raises(DataError, match="crops of 32 pixels"):
        BorderCrops(share=1)(SyntheticStore("train", 2, (36, 36), 4, nested=False))


def test_air_is_not_healthy():
    crops = MaskExcludedCrops()(Heads())
    air = [(crops.image(i) < -0.9).float().mean() for i in range(len(crops)) if not crops.label(i)]
    assert max(air) <= 0.5


def test_crops_outside_the_mask_hold_no_lesion(store):
    crops = MaskExcludedCrops(share=1 / 3, margin=2, least=0.2)(store)
    labels = [crops.label(i) for i in range(len(crops))]
    assert 0 < sum(labels) < len(labels)
    for i, label in enumerate(labels):
        assert crops.image(i).shape == (3, 16, 16)
        covered = majority(crops.masks(i)).float().mean()
        assert covered >= 0.2 if label else covered == 0
    halves = [sum(w for w, one in zip(crops.weights, labels, strict=True) if one == label) for label in (0, 1)]
    assert halves == pytest.approx([1, 1])
    assert len(set(crops.ids)) == len(crops)


def test_border_crops_use_no_mask_and_are_mostly_right(store):
    crops = BorderCrops(share=1 / 6)(NoMasks(store))
    share = {0: [], 1: []}
    for i in range(len(crops)):
        original = crops.indices[i]
        top, left = crops._windows[i]
        share[crops.label(i)].append(halos(store, original)[top : top + 8, left : left + 8].float().mean())
    assert np.mean(share[0]) < 0.1
    assert np.mean(share[1]) > 0.3  # a seventh of the images has no lesion at all


class NoMasks(RelabelledStore):
    def __init__(self, store):
        super().__init__(store, list(range(len(store))), list(store.ids))

    def masks(self, index):
        raise AssertionError("a weak recipe looked at a mask")

    reference = masks

    def label(self, index):
        raise AssertionError("a weak recipe looked at a label")


def test_own_pairs_are_the_same_skin(store):
    pairs = OwnPairs()(store)
    half = len(pairs) // 2
    for i in range(half):
        assert (pairs.label(i), pairs.label(i + half)) == (1, 0)
        assert torch.equal(pairs.healthy(i), pairs.image(i + half))
        assert torch.equal(pairs.healthy(i + half), pairs.image(i + half))
        far = ~torch.nn.functional.max_pool2d(halos(store, pairs.indices[i])[None].float(), 9, 1, 4)[0].bool()
        assert (pairs.image(i).int() - pairs.healthy(i).int())[:, far].abs().max() <= 2
        assert pairs.healthy(i).float().mean() > pairs.image(i).float().mean()


def test_inpainting_removes_the_lesion_and_nothing_else(store):
    pairs, own = InpaintedPairs(margin=3)(store), OwnPairs()(store)
    truth = {own.ids[i]: own.healthy(i).float() for i in range(len(own) // 2)}
    before, after = [], []
    for i in range(len(pairs) // 2):
        image, filled = pairs.image(i).float(), pairs.healthy(i).float()
        changed = (image != filled).any(0)
        mask = torch.from_numpy(np.asarray(store.masks(pairs.indices[i]).float().mean(0)[0] >= 0.5))
        wide = torch.nn.functional.max_pool2d(mask[None, None].float(), 7, 1, 3)[0, 0].bool()
        assert not changed[~wide].any()
        assert pairs.healthy(i).dtype == torch.uint8
        before.append((image - truth[pairs.ids[i]]).abs()[:, mask].mean())
        after.append((filled - truth[pairs.ids[i]]).abs()[:, mask].mean())
    assert np.mean(after) < 0.35 * np.mean(before)


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_inpainting_a_flat_image_gives_it_back(kind):
    image = torch.full((3, 20, 24), 100, dtype=torch.uint8) if kind == "uint8" else torch.full((1, 20, 24), -0.3)
    hole = torch.zeros(1, 20, 24, dtype=torch.bool)
    hole[:, 3:17, 5:24] = True
    filled = inpaint(torch.where(hole, 0, image).to(image.dtype), hole, torch.Generator())
    torch.testing.assert_close(filled, image)


def test_models_that_learn_from_labels_see_no_masks():
    data = SyntheticDataModule(num_train=40, num_val=4, image_size=16, batch_size=8, label_recipe=OwnPairs())
    data.setup("fit")
    data.configure_targets(("label", "healthy"), ["lesion"])
    item = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    assert "mask" not in item
    assert item["healthy"].shape == item["image"].shape == (8, 3, 16, 16)
    same = (item["healthy"] == item["image"]).flatten(1).all(1)
    assert torch.equal(same, item["label"] == 0)  # augmented alike
    assert data.configure_targets(("mask",), ["lesion"]) == "masks"
    item = next(iter(data.train_dataloader()))
    assert "mask" in item
    assert "healthy" not in item
    assert "mask" in next(iter(data.val_dataloader()))


def test_pairs_are_refused_where_there_are_none():
    data = SyntheticDataModule(num_train=40, image_size=16)
    data.setup("fit")
    with pytest.raises(
        DataError, match=r"(?s)Synthetic lesions: OwnLabels gives no healthy counterparts.*OwnPairs.*InpaintedPairs"
    ):
        data.configure_targets(("label", "healthy"), ["lesion"])


def test_masks_of_the_regions_that_a_model_finds():
    data = SyntheticDataModule(nested=True, num_train=8, num_val=4, num_test=4, image_size=16, batch_size=4)
    data.setup("fit")
    data.setup("test")
    data.configure_targets(("mask",), ["nucleus"])
    for loader in (data.train_dataloader(), data.val_dataloader(), data.test_dataloader()):
        assert next(iter(loader))["mask"].shape[1] == 1
    batch = next(iter(data.test_dataloader()))
    assert batch["reference"][0].shape[1] == batch["raters"].shape[2] == 1
    whole = data.stores["test"].reference(0)
    assert torch.equal(batch["reference"][0], whole[:, 1:])


def test_worth_of_labels():
    worth = label_leakage(OwnLabels()(Slices()))
    with pytest.warns(FutureWarning, match="label_worth is now label_leakage"):
        assert label_worth(OwnLabels()(Slices())) == worth
    assert worth.healthy + worth.diseased == 120
    assert worth.healthy_with_mask == worth.diseased_without_mask == 0
    plain, drawn = worth.separations["area"]
    assert plain > 0.7
    assert drawn < 0.6
    assert {"position", "all together"} < set(worth.separations)


class Middle(Slices):
    """Tumours are in the middle of the head, and always there: their place says all, but not by its order."""

    def __init__(self):
        super().__init__()
        self.labels = [int(20 <= place < 40) for place in self.places]


def test_what_tells_labels_need_not_do_so_by_its_order():
    plain, drawn = label_leakage(OwnLabels(balance=False)(Middle())).separations["position"]
    assert separation(covariates(Middle())["position"], np.array(Middle().labels)) < 0.55
    assert min(plain, drawn) > 0.95


def test_what_tells_labels_as_they_are_drawn_is_looked_for_anew():
    """Where position is hidden by weights, the classifier is not one that still goes by position."""
    slices = Slices()
    rng = np.random.default_rng(3)
    tint = rng.normal(0.3 * np.array(slices.labels), 0.3).clip(-0.9, 0.9)
    slices.image = lambda index: torch.full((1, 8, 8), float(tint[index]))
    labelled = OwnLabels()(slices)
    _, drawn = label_leakage(labelled).separations["all together"]
    alone = separation(tint, np.array(slices.labels), np.array(labelled.weights))
    assert drawn >= alone - 0.01


def test_the_command_tells_what_labels_are_worth(tmp_path, capsys):
    options = ["synthetic", "--set=num_train=40", "--set=image_size=16"]
    main(["data", "labels", *options, f"--out={tmp_path / 'a.png'}", "--set=label_recipe=InpaintedPairs"])
    printed = capsys.readouterr().out
    assert "InpaintedPairs: learned from: masks (mask-assisted)" in printed
    assert "mean of channel 1" in printed
    assert "means of all channels" in printed
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.width > 300
    with pytest.raises(SystemExit, match="BorderCrops found 0 healthy"):
        main(["data", "labels", *options, "--set=label_recipe=BorderCrops", "--set=label_recipe.share=1"])


def test_counterparts_have_no_mask(store):
    for recipe in (OwnPairs(), InpaintedPairs()):
        worth = label_leakage(recipe(store))
        assert worth.healthy == worth.diseased
        assert worth.healthy_with_mask == 0


def test_regions_that_the_data_does_not_have_are_refused():
    data = SyntheticDataModule(nested=True, num_test=2, image_size=16)
    data.setup("test")
    with pytest.raises(DataError, match="The model finds optic disc; Synthetic lesions has lesion, nucleus"):
        data.configure_targets((), ["optic disc"])
    one = SyntheticDataModule(num_test=2, image_size=16)
    one.setup("test")
    one.configure_targets((), ["foreground"])  # one region on either side
    assert next(iter(one.test_dataloader()))["mask"].shape[1] == 1
