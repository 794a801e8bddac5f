"""Corrected masks are a data set that training reads."""

import numpy as np
import pytest
import SimpleITK as sitk
import yaml
from helpers.composing import instantiate
from helpers.dark_disc import bright_segmenter, dark_segmenter, picture
from helpers.mri_files import data_module, modality, write_nifti
from helpers.picture_files import yaml_module
from PIL import Image
from PIL.ExifTags import Base

from diffmedseg.app.running import run
from diffmedseg.app.saving import CorrectedSet
from diffmedseg.app.session import Session
from diffmedseg.recipes import recipe


class Shelf:
    def __init__(self, model):
        self.model = model

    def get(self, name):
        return self.model


def segmented(tmp_path, model, *images):
    """A session in which images, by name, were segmented."""
    session = Session(tmp_path / "root")
    for name, image in images:
        path = session.folder.parent / name
        image(path)
        session.take([path])
    *_, last = run(session, Shelf(model), ["model"])
    assert not last.failed, last.text
    return session, session.corrected(model, next(iter(session.scenes["model"].values())))


def correct(session, model, change):
    [scene] = session.scenes["model"].values()
    edited = session.edited(scene.name, scene)
    change(edited)
    return session.save_correction("model", model, scene, edited)


def large(path, orientation=1):
    """2,048 px wide: the scene has half of that."""
    exif = Image.Exif()
    exif[Base.Orientation] = orientation
    picture().resize((2048, 1366)).save(path, exif=exif)


def test_what_was_not_edited_keeps_the_mask_of_full_size(tmp_path):
    model = dark_segmenter()
    session, pairs = segmented(tmp_path, model, ("scan.png", large))
    before = np.asarray(Image.open(session.outputs("model") / "scan_mask.png"))

    def add_a_corner(masks):
        assert masks.shape == (1, 1, 683, 1024)
        masks[0, 0, :50, -60:] = True

    assert correct(session, model, add_a_corner) == "scan"
    after = np.asarray(Image.open(pairs.folder / "masks" / "scan.png"))
    assert after.shape == before.shape == (1366, 2048)
    assert set(np.unique(after)) == {0, 255}
    assert after[:98, -118:].all()
    outside = np.ones_like(after, bool)
    outside[:102, -122:] = False
    assert np.array_equal(after[outside], before[outside])
    assert (pairs.folder / "images" / "scan.png").read_bytes() == (session.inputs / "scan.png").read_bytes()


@pytest.mark.parametrize("orientation", [3, 6])
def test_a_turned_picture_is_corrected_where_it_was_drawn(orientation, tmp_path):
    model = dark_segmenter()
    session, pairs = segmented(tmp_path, model, ("scan.jpg", lambda path: large(path, orientation)))

    def only_the_top_left(masks):
        masks[:] = False
        masks[0, 0, :100, :200] = True

    correct(session, model, only_the_top_left)
    data = yaml_module("folder", pairs.folder)
    [case] = data.cases.values()
    assert case.id == "scan"
    with Image.open(pairs.folder / "masks" / "scan.png") as stored:
        assert stored.getexif()[Base.Orientation] == orientation
        levels = np.asarray(stored)
    corner = {3: levels[-1, -1], 6: levels[-1, 0]}[orientation]  # where the upright top left lies in the file
    assert corner == 255
    assert (levels > 0).mean() == pytest.approx(100 * 200 / (1024 * 683 if orientation == 3 else 683 * 1024), rel=0.02)


def test_training_reads_the_corrected_pictures(tmp_path):
    model = dark_segmenter()
    for n in range(6):
        session, pairs = segmented(
            tmp_path / str(n), model, (f"case{n}.png", lambda path: picture(90 + 7, 60).save(path))
        )
        correct(session, model, lambda masks: None)
        for kind in ("images", "masks"):
            target = tmp_path / "mine" / kind / f"case{n}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            (pairs.folder / kind / f"case{n}.png").rename(target)
    run, root = recipe("medsegdiff-lite", "folder"), tmp_path / "mine"
    data = instantiate([*run.files, pairs.folder / "mine.yaml"], *run.settings, f"--data.root={root}").datamodule
    assert data.info.regions == model.regions  # as the model names them, so that the two models can be compared
    data.prepare_data()
    data.setup("fit")
    masks = [store.masks(i) for store in data.stores.values() for i in range(len(store))]
    assert len(data.cases) == 6
    assert all(0 < float(mask.float().mean()) < 1 for mask in masks)


def test_ids_are_unique_and_stay_with_their_image(tmp_path):
    pairs = CorrectedSet(tmp_path, ("lesion",), False)
    files = []
    for n in range(4):
        files.append(tmp_path / f"{n}.png")
        picture(60 + n, 60).save(files[-1])
    names = [pairs._identify(name, file) for name, file in zip(["a", "A", "a_mask", "a-2"], files, strict=True)]
    assert names == ["a", "A-2", "a-3", "a-2-2"]
    assert len({name.lower() for name in names}) == 4
    assert pairs._identify("other", files[0]) == "a"
    assert len(pairs) == 4


def test_several_regions_nest_and_come_with_their_settings(tmp_path):
    model = dark_segmenter(regions=("disc", "cup"))
    session, pairs = segmented(tmp_path, model, ("eye.png", lambda path: picture().save(path)))

    def cup_beyond_the_disc(masks):
        masks[0] = False
        masks[0, 0, 10:30, 10:30] = True
        masks[1] = True

    correct(session, model, cup_beyond_the_disc)
    disc, cup = (np.asarray(Image.open(pairs.folder / "masks" / name / "eye.png")) for name in ("disc", "cup"))
    assert np.array_equal(disc, cup)
    assert (disc > 0).sum() == 400
    own = yaml.safe_load((pairs.folder / "mine.yaml").read_text())["data"]["init_args"]
    assert own == {"layout": {"init_args": {"masks": {"disc": ["masks*/disc/{id}"], "cup": ["masks*/cup/{id}"]}}},
                   "nested": True}  # fmt: skip
    assert "-c corrected/mine.yaml" in pairs.command("medsegdiff-lite", "entry")


@pytest.mark.parametrize("direction", [None, (-1, 0, 0, 0, 1, 0, 0, 0, -1)])
def test_a_corrected_volume_is_read_by_the_data_set_volumes(direction, tmp_path):
    model = bright_segmenter(("flair",))
    write = lambda path: write_nifti(path, modality(1), np.float32, direction=direction)  # noqa: E731
    session, pairs = segmented(tmp_path, model, ("brain.nii.gz", write))

    def one_slice(masks):
        masks[:] = False
        masks[0, 2, 5:9, 4:10] = True

    assert correct(session, model, one_slice) == "brain"
    image, mask = (sitk.ReadImage(str(pairs.folder / kind / "brain.nii.gz")) for kind in ("images", "masks"))
    assert image.GetSize() == mask.GetSize() == (16, 20, 6)
    assert image.GetDirection() == mask.GetDirection()
    values = sitk.GetArrayFromImage(mask)
    assert values.sum() == 24
    assert values[2, 5:9, 4:10].all()
    stored = sitk.DICOMOrient(sitk.ReadImage(str(session.inputs / "brain.nii.gz")), "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(stored))
    own = yaml.safe_load((pairs.folder / "mine.yaml").read_text())["data"]["init_args"]
    assert own == {"layout": {"init_args": {"channels": ["flair"]}}, "labels": {"lesion": [1]}}
    assert pairs.data == "volumes"
    for n in (2, 3):  # folds need more than one case
        for kind in ("images", "masks"):
            copy = (pairs.folder / kind / "brain.nii.gz").read_bytes()
            (pairs.folder / kind / f"brain{n}.nii.gz").write_bytes(copy)
    data = data_module("volumes", pairs.folder)
    data.prepare_data()
    assert len(data.cases) == 3


def test_a_scene_without_edits_saves_the_models_own_mask(tmp_path):
    model = dark_segmenter()
    session, pairs = segmented(tmp_path, model, ("a.png", lambda path: picture().save(path)))
    correct(session, model, lambda masks: None)
    ours = np.asarray(Image.open(pairs.folder / "masks" / "a.png"))
    assert np.array_equal(ours, np.asarray(Image.open(session.outputs("model") / "a_mask.png")))
