import logging

import numpy as np
import pytest
from helpers.picture_files import SIZE, lesion, save, save_mask, yaml_module
from PIL import Image, features

from diffmedseg.cli import main
from diffmedseg.data import FileNames, PictureDataModule
from diffmedseg.data.source import Source
from diffmedseg.errors import DataError
from diffmedseg.wording import count

OWN = r"images/(?P<id>.+)"
LIBRARIES = {"webp": "webp", "jp2": "jpg_2000"}  # with which Pillow may have been built


def write_folder(root, count=10, raters=("masks",), suffix="png"):
    for number in range(count):
        picture = np.where(lesion(number)[..., None], 60, [220, 190, 180]).astype(np.uint8)
        save(root / "images" / f"p{number}.jpg", picture)
        for rater, folder in enumerate(raters):
            save_mask(root / folder / f"p{number}.{suffix}", lesion(number, 1 + 0.2 * rater))


def module(root, layout=None, **options):
    source = Source("own", "own pictures", "", "", "", "Put pictures there.")
    layout = layout or FileNames(OWN, {"lesion": ["masks*/{id}"]})
    return PictureDataModule(root, source, layout, **{"image_size": 12} | options)


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "webp", "jp2", "ppm", "pbm"])
def test_a_folder_of_ones_own(suffix, tmp_path):
    if suffix in LIBRARIES and not features.check(LIBRARIES[suffix]):
        pytest.skip(f"this Pillow does not read {suffix}")
    write_folder(tmp_path, suffix=suffix)
    data = yaml_module("folder", tmp_path)
    splits = {name: data.load(name) for name in ("train", "val", "test")}
    assert {name: len(store) for name, store in splits.items()} == {"train": 7, "val": 1, "test": 2}
    assert sorted(id_ for store in splits.values() for id_ in store.ids) == [f"p{i}" for i in range(10)]
    store = splits["test"]
    assert store.image(0).shape == (3, 16, 16)
    assert np.array_equal(store.reference(0)[0, 0], lesion(int(store.ids[0][1:])))
    assert data.info.raters == 1


def test_several_raters_some_of_whom_did_not_outline_everything(tmp_path):
    write_folder(tmp_path, raters=("masks_anna", "masks_bo", "masks_cem"))
    (tmp_path / "masks_bo" / "p3.png").unlink()
    save_mask(tmp_path / "masks_cem" / "p4.png", lesion(4) & False)  # looked, and found nothing
    data = module(tmp_path)
    assert data.info.raters == 3
    stores = [data.load(name) for name in ("train", "val", "test")]
    found = {id_: (store.masks(i), store.reference(i)) for store in stores for i, id_ in enumerate(store.ids)}
    for id_, (masks, reference) in found.items():
        number, raters = int(id_[1:]), 2 if id_ == "p3" else 3
        assert masks.shape == (raters, 1, 12, 12)
        assert reference.shape == (raters, 1, *SIZE)
        assert masks.max() <= 1
        assert np.array_equal(reference[0, 0], lesion(number))
    assert found["p4"][1][2].sum() == 0


def test_a_folder_for_each_region_of_each_rater(tmp_path):
    write_folder(tmp_path, 4, raters=("masks_a/outer", "masks_b/outer"))
    for number in range(4):
        for rater in "ab":
            save_mask(tmp_path / f"masks_{rater}" / "inner" / f"p{number}.png", lesion(number, 0.5))
    layout = FileNames(OWN, {"outer": ["masks*/outer/{id}"], "inner": ["masks*/inner/{id}"]})
    data = module(tmp_path, layout, nested=True, folds=2)
    assert (data.info.regions, data.info.raters, data.info.nested) == (("outer", "inner"), 2, True)
    store = data.load("test")
    reference = store.reference(0)
    assert reference.shape == (2, 2, *SIZE)
    assert (reference[:, 1] <= reference[:, 0]).all()
    assert np.array_equal(reference[1, 1], lesion(int(store.ids[0][1:]), 0.5))
    (tmp_path / "masks_b" / "inner" / "p2.png").unlink()
    with pytest.raises(DataError, match=r"p2\.jpg has no masks_b/inner/\{id\}, but other regions of the same rater"):
        module(tmp_path, layout).load("train")


@pytest.mark.parametrize("ending", ["_segmentation", "_mask", "_seg_mask", "-label"])
def test_endings_of_masks_may_be_left_out(ending, tmp_path):
    for number in range(3):
        save(tmp_path / "images" / f"p{number}.png", np.zeros((*SIZE, 3), np.uint8))
        save_mask(tmp_path / "masks" / f"P{number}{ending}.PNG", lesion(number))
    assert [case.id for case in FileNames(OWN, {"a": ["masks/{id}"]}).find(tmp_path)] == ["p0", "p1", "p2"]


def test_values_of_a_mask_with_several_regions(tmp_path):
    """REFUGE's: the cup is 0, the rim around it 128, background 255."""
    for number in range(4):
        coded = np.full(SIZE, 255, np.uint8)
        coded[lesion(number)], coded[lesion(number, 0.5)] = 128, 0
        save(tmp_path / "images" / f"p{number}.png", np.zeros((*SIZE, 3), np.uint8))
        save(tmp_path / "masks" / f"p{number}.bmp", coded)
    masks = {"disc": ["masks/{id}"], "cup": ["masks/{id}"]}
    layout = FileNames(OWN, masks, {"disc": [0, 128], "cup": [0]}, [255])
    store = module(tmp_path, layout, nested=True, folds=2).load("test")
    number = int(store.ids[0][1:])
    assert np.array_equal(store.reference(0)[0, 0], lesion(number))
    assert np.array_equal(store.reference(0)[0, 1], lesion(number, 0.5))
    other = FileNames(OWN, masks, {"disc": [0, 128], "cup": [128]}, [255])
    changed = module(tmp_path, other, folds=2).load("test")  # not what the cache holds of the first
    assert not np.array_equal(changed.masks(0), store.masks(0))
    Image.open(tmp_path / "masks" / "p1.bmp").save(tmp_path / "masks" / "p1.jpg", quality=60)
    (tmp_path / "masks" / "p1.bmp").unlink()
    with pytest.raises(DataError, match=r"p1\.jpg has values .*this data set has 0, 128, 255\. The file was resized"):
        module(tmp_path, layout, folds=2).load("test")


def test_patients_are_not_split(tmp_path):
    for patient in range(6):
        for eye in "LR":
            save(tmp_path / f"Image_{patient:02d}{eye}.png", np.zeros((*SIZE, 3), np.uint8))
            for rater in ("1stHO", "2ndHO"):
                save_mask(tmp_path / f"Image_{patient:02d}{eye}_{rater}.png", lesion(patient))
    layout = FileNames(r"(?P<id>Image_(?P<patient>\d\d)[LR])", {"vessels": ["{id}_1stHO", "{id}_2ndHO"]})
    data = module(tmp_path, layout, folds=3, val_fraction=0.25)
    assert data.info.raters == 2
    patients = [{id_[6:8] for id_ in data.load(name).ids} for name in ("train", "val", "test")]
    assert [len(found) for found in patients] == [3, 1, 2]
    assert len(set.union(*patients)) == 6


def test_splits_are_written_and_read(tmp_path):
    write_folder(tmp_path / "data")
    first = module(tmp_path / "data", splits=tmp_path / "splits.yaml")
    first.prepare_data()
    write_folder(tmp_path / "data", 12)
    again = module(tmp_path / "data", splits=tmp_path / "splits.yaml")
    assert again.load("test").ids == first.load("test").ids


def test_lidc_as_cimd_has_it(tmp_path):
    for number in range(6):
        folder = tmp_path / "training" / str(number)
        save(folder / f"image_{number + 3}.jpg", np.full((32, 32), 90, np.uint8))
        for rater in range(4):
            mask = np.zeros((32, 32), np.uint8)
            mask[8:20, 8:20] = 255 * (rater != 2)
            save(folder / f"label{rater}_.jpg", mask)  # ringing around the edges
    data = yaml_module("lidc", tmp_path)
    assert (data.info.channels, data.info.raters) == (("grey",), 4)
    store = data.load("train")
    assert store.ids[0].startswith("training_")
    assert store.image(0).shape == (1, 16, 16)
    assert store.reference(0).sum((1, 2, 3)).tolist() == [144, 144, 0, 144]


def test_a_picture_without_masks_is_left_out(tmp_path, caplog):
    write_folder(tmp_path, 5)
    (tmp_path / "masks" / "p2.png").unlink()
    with caplog.at_level(logging.WARNING):
        cases = FileNames(OWN, {"a": ["masks/{id}"]}).find(tmp_path)
    assert [case.id for case in cases] == ["p0", "p1", "p3", "p4"]
    assert "1 picture without a mask" in caplog.text


@pytest.mark.parametrize("lost", ["p2.jpg", "sub/p2.jpg"])
def test_a_mask_without_a_picture_is_named(lost, tmp_path, caplog):
    write_folder(tmp_path, 5, raters=("masks_a", "masks_b"))
    if "sub" in lost:
        for folder, suffix in (("images", "jpg"), ("masks_a", "png"), ("masks_b", "png")):
            (tmp_path / folder / "sub").mkdir()
            (tmp_path / folder / f"p2.{suffix}").rename(tmp_path / folder / "sub" / f"p2.{suffix}")
    with caplog.at_level(logging.WARNING):
        assert len(FileNames(OWN, {"a": ["masks*/{id}"]}).find(tmp_path)) == 5
        assert not caplog.text
        (tmp_path / "images" / lost).unlink()
        assert len(FileNames(OWN, {"a": ["masks*/{id}"]}).find(tmp_path)) == 4
    mask = lost.replace("jpg", "png")
    assert f"2 masks without a picture in {tmp_path}: left out: masks_a/{mask}, masks_b/{mask}." in caplog.text


def test_masks_of_pictures_that_are_not_asked_for_are_no_matter(tmp_path, caplog):
    """A layout may read part of a folder."""
    write_folder(tmp_path, 12)
    for path in (tmp_path / "masks").iterdir():
        path.rename(path.with_name(f"{path.stem}_segmentation.png"))
    with caplog.at_level(logging.WARNING):
        assert len(FileNames(r"images/(?P<id>p\d)", {"a": ["masks/{id}"]}).find(tmp_path)) == 10
    assert not caplog.text


@pytest.mark.parametrize(
    ("name", "picture", "masks", "others"),
    [
        ("chase", "Image_0{}L.jpg", ["Image_0{}L_1stHO.png", "Image_0{}L_2ndHO.png"], []),
        ("lidc", "training/{}/image_{}.jpg", [f"training/{{}}/label{rater}_.jpg" for rater in range(4)], []),
        ("drive", "training/images/2{}_training.tif", ["training/1st_manual/2{}_manual1.gif"],
         ["training/mask/2{}_training_mask.gif"]),
        ("refuge", "Training400/Glaucoma/g000{}.jpg",
         ["Annotation-Training400/Disc_Cup_Masks/Glaucoma/g000{}.bmp"], []),
        ("refuge_multirater", "Test-400/T{}/T{}.jpg",
         [f"Test-400/T{{}}/T{{}}_seg_{part}_{rater}.png" for part in ("cup", "disc") for rater in range(1, 8)],
         ["Test-400/T{}/T{}_cropped.jpg"]),
        ("lidc_pickle", "images/{}_0.png", [f"masks_{rater}/{{}}_0.png" for rater in range(4)], []),
    ],
)  # fmt: skip
def test_masks_without_a_picture_in_every_layout(name, picture, masks, others, tmp_path, caplog):
    """No file of a whole data set is suspected; where a picture is lost, all of its masks are named."""
    for number in "12":
        for file in (picture, *masks, *others):
            save_mask(tmp_path / file.replace("{}", number), lesion(0))
    layout = yaml_module(name, tmp_path).layout
    with caplog.at_level(logging.WARNING):
        assert len(layout.find(tmp_path)) == 2
        assert not caplog.text
        (tmp_path / picture.replace("{}", "1")).unlink()
        assert len(layout.find(tmp_path)) == 1
    assert (
        f"{count(len(masks), 'mask')} without a picture in {tmp_path}: left out: {masks[0].replace('{}', '1')}"
        in caplog.text
    )


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda root: [path.rename(path.with_suffix(".heic")) for path in (root / "images").iterdir()],
         r"No picture in .* Not read: \.heic \(10\)\. These are read: .*\.png"),
        (lambda root: [path.rename(path.with_suffix(".nii.gz")) for path in (root / "images").iterdir()],
         r"Not read: \.gz \(10\)\. .* For NIfTI volumes use the data set volumes"),
        (lambda root: [path.rename(path.with_suffix(".npy")) for path in (root / "masks").iterdir()],
         r"None of the 10 pictures .* Not read: \.npy \(10\)\. These are read: .*\.png"),
        (lambda root: (root / "images").rename(root / "pictures"), r"No picture.*expected images/<name>; there is"),
        (lambda root: (root / "masks").rename(root / "truth"), r"None of the 10 pictures in .* has a mask; expected"),
        (lambda root: save_mask(root / "masks" / "p1.png", lesion(0)[:5]), r"needs masks of .*p1\.png has"),
        (lambda root: (root / "images" / "p1.jpg").write_bytes(b"x"), r"p1\.jpg: it cannot be decoded"),
        (lambda root: save(root / "masks" / "p1.png", np.full(SIZE, 3, np.uint8)), r"expected 0 to 1, or 0 to 255"),
        (lambda root: save(root / "images" / "p1.png", np.zeros((*SIZE, 3), np.uint8)), "Two pictures .* name p1: "),
        (
            lambda root: save_mask(root / "masks" / "p1.bmp", lesion(0)),
            r"has several masks for masks/\{id\}: .*p1\.bmp",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_named(harm, message, tmp_path):
    write_folder(tmp_path)
    harm(tmp_path)
    with pytest.raises(DataError, match=message):
        module(tmp_path).load("train")


def test_layouts_that_cannot_be():
    with pytest.raises(ValueError, match=r"no group \(\?P<id>"):
        FileNames("images/.*", {"a": ["x"]})
    with pytest.raises(ValueError, match="same number of paths"):
        FileNames(OWN, {"a": ["x"], "b": ["x", "y"]})


@pytest.mark.pictures
def test_make_train_on_a_folder(tmp_path, capsys):
    write_folder(tmp_path / "data", raters=("masks_a", "masks_b"))
    options = [
        "--data.image_size=16", "--data.batch_size=2", "--data.steps_per_epoch=2", "--trainer.max_steps=2",
        "--trainer.accelerator=cpu", "--model.num_samples=2", "--model.num_steps=2",
    ]  # fmt: skip
    main(["train", "medsegdiff-lite", "folder", f"--data.root={tmp_path / 'data'}", f"--runs={tmp_path}", *options])
    assert "GED (unbiased)" in capsys.readouterr().out
    assert (tmp_path / "medsegdiff-lite-folder" / "version_0" / "report.html").is_file()
