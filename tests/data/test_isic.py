import io
import itertools

import numpy as np
import pytest
import torch
from helpers.isic_files import SPLITS, YEARS, all_ids, disc, expect, folders, ids, numbered, write, write_pair
from PIL import Image

from diffmedseg.data.isic import ISIC2016DataModule, ISIC2017DataModule, ISIC2018DataModule, ISICDataModule
from diffmedseg.errors import DataError


@pytest.mark.parametrize("year", YEARS)
def test_reads_the_official_layout(tmp_path, year):
    parts = {"training": 20, "test": 3} | ({} if year is ISIC2016DataModule else {"validation": 2})
    write(tmp_path, year, "_Segmentation.png" if year is ISIC2016DataModule else "_segmentation.png", **parts)
    data = year(tmp_path, image_size=(16, 20))
    found = all_ids(data)
    assert len(found["val"]) == 2
    assert sorted(found["train"] + found["val"]) == numbered("training", 20)
    assert found["test"] == numbered("test", 3)
    for split in SPLITS:
        store = data.load(split)
        assert store.cases == store.ids
        for index, name in enumerate(store.ids):
            image, masks, reference = store.image(index), store.masks(index), store.reference(index)
            width, height = [(16, 12), (40, 30), (24, 32)][int(name[-7:]) % 3]
            assert image.shape == (3, 16, 20)
            assert masks.shape == (1, 1, 16, 20)
            assert image.dtype == masks.dtype == reference.dtype == torch.uint8
            assert torch.equal(reference[0, 0], torch.from_numpy(disc(width, height)).byte())
            assert masks.unique().tolist() == [0, 1]
            # Image and mask belong together: the lesion is dark.
            assert image[:, masks[0, 0] == 1].float().mean() + 60 < image[:, masks[0, 0] == 0].float().mean()


def test_info_gives_the_shape_of_the_masks():
    for year in YEARS:
        assert year.info.channels == ("red", "green", "blue")
        assert (len(year.info.regions), year.info.raters) == (1, 1)
        assert "arXiv" in year.info.citation
    assert len({year.info.name for year in YEARS}) == 3
    with pytest.raises(TypeError, match="abstract"):
        ISICDataModule("anywhere")


# What surrounds the images


def test_letter_case_does_not_matter(tmp_path):
    write(tmp_path, ISIC2018DataModule, "_SegMentation.PNG", training=10)
    images, masks = folders(tmp_path)
    for path in list(images.iterdir())[::2]:
        path.rename(images / path.name.replace("ISIC", "isic").replace(".jpg", ".JPG"))
    images.rename(tmp_path / images.name.lower())
    masks.rename(tmp_path / masks.name.upper())
    found = all_ids(ISIC2018DataModule(tmp_path))
    assert sorted(itertools.chain(*found.values())) == numbered("training", 10)
    assert found["train"] == sorted(found["train"])


@pytest.mark.parametrize("suffix", [".jpg", ".jpeg", ".png", ".PNG"])
def test_suffixes_of_images(tmp_path, suffix):
    write(tmp_path, ISIC2018DataModule, training=10)
    for path in folders(tmp_path)[0].iterdir():
        path.rename(path.with_suffix(suffix))
    assert len(ids(ISIC2018DataModule(tmp_path), "train")) == 8


def test_other_files_are_no_images(tmp_path):
    write(tmp_path, ISIC2017DataModule, training=10, validation=2, test=2)
    for images, masks in ISIC2017DataModule.folders().values():
        first = next((tmp_path / images).glob("*.jpg")).stem
        Image.new("RGB", (16, 12)).save(tmp_path / images / f"{first}_superpixels.png")
        for folder in (images, masks):
            (tmp_path / folder / f"{folder}_metadata.csv").write_text("image_id,age\n")
            (tmp_path / folder / "ATTRIBUTION.txt").touch()
            (tmp_path / folder / "LICENSE.txt").touch()
            (tmp_path / folder / ".DS_Store").touch()
            (tmp_path / folder / f"._{first}.jpg").touch()
            (tmp_path / folder / f"._{first}_segmentation.png").touch()
            (tmp_path / folder / "Thumbs.db").touch()
    found = all_ids(ISIC2017DataModule(tmp_path))
    assert sorted(found["train"] + found["val"]) == numbered("training", 10)
    assert found["test"] == numbered("test", 2)


def test_2017_test_set_is_version_2(tmp_path):
    write(tmp_path, ISIC2017DataModule, training=5, test=2)
    assert (tmp_path / "ISIC-2017_Test_v2_Data").is_dir()
    assert ids(ISIC2017DataModule(tmp_path), "test") == numbered("test", 2)


@pytest.mark.parametrize("level", ["images", "masks", "both"])
def test_archive_unpacked_into_a_folder_of_its_name(tmp_path, level):
    write(tmp_path, ISIC2018DataModule, training=10)
    for folder in {"images": folders(tmp_path)[:1], "masks": folders(tmp_path)[1:], "both": folders(tmp_path)}[level]:
        inner = tmp_path / "moving"
        folder.rename(inner)
        folder.mkdir()
        inner.rename(folder / folder.name)
    assert len(ids(ISIC2018DataModule(tmp_path), "train")) == 8


def test_masks_damaged_by_jpeg(tmp_path):
    """Masks that were JPEG for a while have grey levels around both; the threshold brings the mask back."""
    write(tmp_path, ISIC2018DataModule, training=10)
    for path in folders(tmp_path)[1].iterdir():
        through = io.BytesIO()
        Image.open(path).save(through, "JPEG", quality=80)
        Image.open(through).save(path)
        assert len(np.unique(np.asarray(Image.open(path)))) > 10
    store = ISIC2018DataModule(tmp_path).load("train")
    for index in range(len(store)):
        reference = store.reference(index)
        assert set(reference.unique().tolist()) == set(store.masks(index).unique().tolist()) == {0, 1}
        expected = torch.from_numpy(disc(*reference.shape[:-3:-1])).byte()
        assert (reference[0, 0] != expected).float().mean() < 0.03


# Errors


def test_masks_of_levels_0_and_1(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    path = folders(tmp_path)[1] / "ISIC_0000003_segmentation.png"
    before = np.asarray(Image.open(path))
    Image.fromarray(before // 255).save(path)
    data = ISIC2018DataModule(tmp_path)
    stores = [data.load(split) for split in ("train", "val", "test")]
    [found] = [store.reference(store.ids.index("ISIC_0000003")) for store in stores if "ISIC_0000003" in store.ids]
    assert np.array_equal(found[0, 0], before == 255)


def test_sizes_differ(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    Image.new("L", (17, 11)).save(folders(tmp_path)[1] / "ISIC_0000003_segmentation.png")
    expect(tmp_path, "ISIC_0000003.jpg", "ISIC_0000003_segmentation.png", "12, 16)", "11, 17)", "1 of 10")


def test_id_twice_in_a_folder(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    Image.new("RGB", (16, 12)).save(folders(tmp_path)[0] / "ISIC_0000003.png")
    expect(tmp_path, "1 ids", "ISIC_0000003.jpg and ", "ISIC_0000003.png", "Keep one")


def test_id_twice_in_nested_folders(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    outer = folders(tmp_path)[0]
    (outer / outer.name).mkdir()
    Image.new("RGB", (16, 12)).save(outer / outer.name / "ISIC_0000004.jpg")
    expect(tmp_path, f"{outer}/ISIC_0000004.jpg and ", f"{outer}/{outer.name}/ISIC_0000004.jpg")


def test_images_without_mask(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    for number in range(2, 7):
        (folders(tmp_path)[1] / f"ISIC_{number:07d}_segmentation.png").unlink()
    names = "ISIC_0000002, ISIC_0000003, ISIC_0000004 and 2 more"
    expect(tmp_path, "5 images without a mask", names, str(folders(tmp_path)[1]), "Unpack both")


def test_masks_without_image(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    (folders(tmp_path)[0] / "ISIC_0000009.jpg").unlink()
    expect(tmp_path, "1 mask without an image", "ISIC_0000009", str(folders(tmp_path)[0]), "of 9 images and 10 masks")


def test_unpaired_reported_set_is_found_before_training(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10, test=3)
    (folders(tmp_path, part="test")[1] / "ISIC_0010001_segmentation.png").unlink()
    expect(tmp_path, "1 image without a mask", "ISIC_0010001")


@pytest.mark.parametrize("part", [0, 1])
def test_truncated_file(tmp_path, part):
    write(tmp_path, ISIC2018DataModule, training=10)
    path = sorted(folders(tmp_path)[part].iterdir())[4]
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    expect(tmp_path, f"{path}: it cannot be decoded", "truncated", "Download or export it again", "1 of 10")


def test_mask_truncated_after_the_cache_was_written(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10)
    store = ISIC2018DataModule(tmp_path).load("train")
    path = folders(tmp_path)[1] / f"{store.ids[0]}_segmentation.png"
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(DataError, match=path.name):
        store.reference(0)
    assert store.masks(0).shape == (1, 1, 64, 64)


@pytest.mark.parametrize("year", YEARS)
def test_missing_or_empty_root(tmp_path, year):
    images, masks = year.folders()["training"]
    remedy = (images, masks, year.info.download, "--data.root FOLDER")
    expect(tmp_path / "nowhere", "no such folder", *remedy, year=year)
    expect(tmp_path, "it holds nothing", *remedy, year=year)
    (tmp_path / "photos").mkdir()
    expect(tmp_path, "it holds photos", *remedy, year=year)


def test_folders_without_any_image(tmp_path):
    for folder in folders(tmp_path):
        folder.mkdir()
    expect(tmp_path, "No training set", folders(tmp_path)[0].name)


def test_image_in_training_and_test_set(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=10, test=3)
    write_pair(*folders(tmp_path, part="test"), 3)
    expect(tmp_path, "1 image in", "ISIC_0000003")


def test_too_few_images(tmp_path):
    write(tmp_path, ISIC2018DataModule, training=2)
    expect(tmp_path, "2 images", "too few")
