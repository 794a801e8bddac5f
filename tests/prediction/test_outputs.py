"""What predict writes besides its masks: samples, label maps, chosen maps; and how it treats earlier results."""

import csv
import math

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import torch
import yaml
from helpers.dark_disc import bright_segmenter, dark_segmenter, disc, picture
from helpers.mri_files import write_brats
from PIL import Image

from diffmedseg.atomic import lock_folder, write_whole
from diffmedseg.errors import DataError
from diffmedseg.postprocessing.calibration import TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import MajorityFusion
from diffmedseg.prediction import (
    Naming,
    Outputs,
    Settings,
    find_cases,
    find_pictures,
    predict_pictures,
    predict_volumes,
)
from diffmedseg.reading.label_maps import draw_labels, label_values
from diffmedseg.reading.windows import CropWindow
from diffmedseg.segmentation import SampleSet, sample_areas

CASE = "BraTS2021_00001"
BRATS = ("whole_tumour", "tumour_core", "enhancing_tumour")


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "in").mkdir()
    for number in range(2):
        picture(90 + 10 * number, 60).save(tmp_path / "in" / f"p{number}.png")
    return find_pictures([tmp_path / "in"])


@pytest.fixture
def cases(tmp_path):
    write_brats(tmp_path / "in", [CASE], ("flair", "t1ce"), seg=None)
    return find_cases([tmp_path / "in"], Naming(("flair", "t1ce"), {}))


def rows(out):
    with (out / "predictions.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def load(path):
    with Image.open(path) as image:
        return np.asarray(image)


def names(out):
    return sorted(path.name for path in out.iterdir() if not path.name.startswith("predictions."))


def pages(path):
    with Image.open(path) as image:
        for page in range(image.n_frames):
            image.seek(page)
            yield np.asarray(image)


def extremes(masks):
    areas = [int((mask > 0).sum()) for mask in masks]
    return min(areas), max(areas)


# Samples.


@pytest.mark.parametrize("size", [(90, 60), (20, 17)], ids=["larger than the grid", "smaller"])
def test_pages_have_the_areas_of_the_table(size, tmp_path):
    picture(*size).save(tmp_path / "a.png")
    model = dark_segmenter(regions=("disc", "cup"), num_samples=5)
    files = find_pictures([tmp_path / "a.png"])
    predict_pictures(model, files, tmp_path / "tiff", outputs=Outputs(samples="image"))
    predict_pictures(model, files, tmp_path / "npz", outputs=Outputs(samples="npz"))
    archive = np.load(tmp_path / "npz" / "a_samples.npz")
    assert archive["regions"].tolist() == ["disc", "cup"]
    assert archive["samples"].dtype == bool
    for k, row in enumerate(rows(tmp_path / "tiff")):
        masks = list(pages(tmp_path / "tiff" / f"a_{row['region']}_samples.tif"))
        assert len(masks) == 5
        assert {value for mask in masks for value in np.unique(mask)} <= {0, 255}
        assert extremes(masks) == (int(row["samples_area_min"]), int(row["samples_area_max"]))
        assert np.array_equal(np.stack(masks) > 0, archive["samples"][:, k])
    assert int(row["samples_area_min"]) < int(row["samples_area_max"])


@pytest.mark.parametrize("orientation", [3, 5, 6])
def test_pages_lie_over_the_file_as_the_mask_does(orientation, tmp_path):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture().save(tmp_path / "a.jpg", exif=exif, quality=95)
    predict_pictures(
        dark_segmenter(), find_pictures([tmp_path / "a.jpg"]), tmp_path / "out", outputs=Outputs(samples="image")
    )
    with Image.open(tmp_path / "out" / "a_samples.tif") as image:
        assert [image.seek(page) or image.getexif()[0x112] for page in range(3)] == [orientation] * 3
    stored = disc()
    upright = {3: stored[::-1, ::-1], 5: stored.T, 6: np.rot90(stored, -1)}[orientation]  # as Pillow loads TIFF
    for mask in pages(tmp_path / "out" / "a_samples.tif"):
        assert 2 * ((mask > 0) & upright).sum() / ((mask > 0).sum() + upright.sum()) > 0.9


def test_samples_of_a_window_lie_in_their_picture(tmp_path):
    picture(90, 60).save(tmp_path / "a.png")
    model, files = dark_segmenter(cropped=True), find_pictures([tmp_path / "a.png"])
    windows = {"a": CropWindow(5, 2, 50, 40)}
    for form in ("image", "npz"):
        predict_pictures(model, files, tmp_path / form, windows=windows, outputs=Outputs(samples=form))
    [row] = rows(tmp_path / "image")
    masks = np.stack(list(pages(tmp_path / "image" / "a_samples.tif"))) > 0
    assert masks.shape == (3, 60, 90)
    assert extremes(masks) == (int(row["samples_area_min"]), int(row["samples_area_max"]))
    assert np.array_equal(masks, np.load(tmp_path / "npz" / "a_samples.npz")["samples"][:, 0])


@pytest.mark.parametrize(("form", "file"), [("image", "p0_samples.tif"), ("npz", "p0_samples.npz")])
def test_resume_knows_samples(form, file, photos, tmp_path):
    out, outputs = tmp_path / "out", Outputs(samples=form)
    predict_pictures(dark_segmenter(), photos, out)
    assert predict_pictures(dark_segmenter(), photos, out, resume=True, outputs=outputs).done == ["p0", "p1"]
    assert predict_pictures(dark_segmenter(), photos, out, resume=True, outputs=outputs).kept == ["p0", "p1"]
    whole = (out / file).read_bytes()
    (out / file).write_bytes(whole[: len(whole) // 2])
    assert predict_pictures(dark_segmenter(), photos, out, resume=True, outputs=outputs).done == ["p0"]
    assert (out / file).read_bytes()[-20:] == whole[-20:]


def test_samples_of_a_volume_overlay_its_file(cases, tmp_path):
    model = bright_segmenter(("flair", "t1ce"), ("whole", "core"), num_samples=4)
    source = next((tmp_path / "in" / CASE).glob("*_flair.nii.gz"))
    turned = sitk.DICOMOrient(sitk.ReadImage(str(source)), "ASL")
    sitk.WriteImage(turned, str(source))
    for form in ("image", "npz"):
        report = predict_volumes(model, cases, tmp_path / form, outputs=Outputs(samples=form))
        assert report.failed == {}
        resumed = predict_volumes(model, cases, tmp_path / form, outputs=Outputs(samples=form), resume=True)
        assert resumed.kept == [CASE]
    flair, archive = nibabel.load(source), np.load(tmp_path / "npz" / f"{CASE}_samples.npz")["samples"]
    voxel = math.prod(flair.header.get_zooms()) / 1000
    for k, row in enumerate(rows(tmp_path / "image")):
        samples = nibabel.load(tmp_path / "image" / f"{CASE}_{row['region']}_samples.nii.gz")
        assert samples.shape == (*flair.shape, 4)
        assert np.allclose(samples.affine, flair.affine, atol=1e-4)
        values = samples.get_fdata()
        volumes = values.sum((0, 1, 2)) * voxel
        assert volumes.min() == pytest.approx(float(row["samples_ml_min"]), abs=1e-3)
        assert volumes.max() == pytest.approx(float(row["samples_ml_max"]), abs=1e-3)
        assert np.array_equal(values.T, archive[:, k])


def test_areas_of_many_samples_are_those_of_each():
    samples = torch.rand(2, 5, 2, 8, 8)
    apart = torch.cat([sample_areas(samples[:, s : s + 1], (13, 40)) for s in range(5)], 1)
    assert torch.equal(sample_areas(samples, (13, 40)), apart)


# Label maps.


@pytest.mark.parametrize(
    ("scheme", "values"),
    [("order", (1, 2, 3)), ("brats", (2, 1, 4)), ("brats2023", (2, 1, 3)),
     ("tumour_core=7,whole_tumour=250,enhancing_tumour=9", (250, 7, 9))],
)  # fmt: skip
def test_a_label_map_holds_all_regions(scheme, values, tmp_path):
    picture().save(tmp_path / "a.png")
    model = dark_segmenter(regions=BRATS)
    predict_pictures(model, find_pictures([tmp_path / "a.png"]), tmp_path / "out", outputs=Outputs(labels=scheme))
    labels = load(tmp_path / "out" / "a_labels.png")
    expected = np.zeros_like(labels)
    for region, value in zip(BRATS, values, strict=True):
        expected[load(tmp_path / "out" / f"a_{region}_mask.png") > 0] = value
    assert np.array_equal(labels, expected)
    assert len(np.unique(labels)) > 2


def test_a_label_map_of_a_volume(cases, tmp_path):
    model = bright_segmenter(("flair", "t1ce"), BRATS)
    predict_volumes(model, cases, tmp_path / "out", outputs=Outputs(labels="brats", maps=("mask",)))
    labels, *masks = (
        nibabel.load(tmp_path / "out" / f"{CASE}_{name}.nii.gz")
        for name in ("labels", *(f"{region}_mask" for region in BRATS))
    )
    assert labels.get_data_dtype() == np.uint8
    assert np.array_equal(labels.affine, masks[0].affine)
    whole, core, enhancing = (mask.get_fdata() > 0 for mask in masks)
    values = labels.get_fdata()
    assert np.array_equal(values > 0, whole)
    assert np.array_equal((values == 1) | (values == 4), core)  # BraTS's own definition of the regions
    assert np.array_equal(values == 4, enhancing)


@pytest.mark.parametrize("scheme", ["brats", "brats2023"])
def test_schemes_agree_with_the_data_sets(scheme, pytestconfig):
    name = {"brats": "brats2020", "brats2023": "brats2023"}[scheme]
    config = yaml.safe_load((pytestconfig.rootpath / "experiments" / "data" / f"{name}.yaml").read_text())
    regions = config["data"]["init_args"]["labels"]
    values, names_ = label_values(scheme, tuple(regions)), list(regions)
    for outer, inner in zip(names_, [*names_[1:], None], strict=True):
        assert values[outer] in set(regions[outer]) - set(regions.get(inner, ()))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ("brats", "this model's regions are disc, cup"),
        ("disc=1", "has labels of disc; this model's regions are disc, cup"),
        ("disc=1,cup=1", "two regions the same label"),
        ("disc=1,cup=256", "'cup=256' is not REGION=VALUE"),
        ("disc=0,cup=1", "'disc=0' is not REGION=VALUE"),
        ("disc=1,disc=2,cup=3", "names disc twice"),
        ("disc=1,cup=²", "is not REGION=VALUE"),
        ("brats2024", "'brats2024' is not REGION=VALUE"),
    ],
)
def test_labels_that_do_not_fit(labels, message):
    with pytest.raises(DataError, match=message):
        label_values(labels, ("disc", "cup"))


def test_regions_that_overlap_without_nesting_have_no_label_map(photos, tmp_path):
    model = dark_segmenter(regions=("a", "b"), nested=False)
    report = predict_pictures(model, photos[:1], tmp_path / "out", outputs=Outputs(labels="order"))
    assert "its region b overlaps another region" in report.failed[photos[0].path]
    assert names(tmp_path / "out") == []
    apart = torch.tensor([[True, False, False], [False, False, True]])
    assert draw_labels(apart, {"a": 1, "b": 2}, nested=False).tolist() == [1, 0, 2]


def test_label_maps_of_two_schemes_are_never_mixed(tmp_path):
    picture().save(tmp_path / "a.png")
    model, files, out = dark_segmenter(regions=BRATS), find_pictures([tmp_path / "a.png"]), tmp_path / "out"
    predict_pictures(model, files, out, outputs=Outputs(labels="brats"))
    assert predict_pictures(model, files, out, resume=True).kept == ["a"]  # without a label map
    with pytest.raises(DataError, match="other settings"):
        predict_pictures(model, files, out, resume=True, outputs=Outputs(labels="order"))


# Maps, threshold, table.


def test_only_the_chosen_maps(photos, cases, tmp_path):
    predict_pictures(dark_segmenter(), photos, tmp_path / "a", outputs=Outputs(maps=("mask",)))
    assert names(tmp_path / "a") == ["p0_mask.png", "p1_mask.png"]
    model = bright_segmenter(("flair", "t1ce"))
    predict_volumes(model, cases, tmp_path / "b", outputs=Outputs(maps=("disagreement", "mask")))
    assert names(tmp_path / "b") == [f"{CASE}_disagreement.nii.gz", f"{CASE}_mask.nii.gz"]
    for maps, message in (("inner", "no contours"), ("masks", "Did you mean mask")):
        with pytest.raises(DataError, match=message):
            predict_pictures(dark_segmenter(), photos, tmp_path / "c", outputs=Outputs(maps=(maps,)))
    assert not (tmp_path / "c").exists()


def test_maps_that_are_not_written_anew_do_not_stay(photos, tmp_path):
    predict_pictures(dark_segmenter(), photos, tmp_path / "out")
    picture(90, 60, 20).save(photos[0].path)
    report = predict_pictures(dark_segmenter(), photos, tmp_path / "out", resume=True, outputs=Outputs(maps=("mask",)))
    assert (report.done, report.kept) == (["p0"], ["p1"])
    assert [name for name in names(tmp_path / "out") if "p0" in name] == ["p0_mask.png"]


def test_stored_probability_is_right_in_every_reader(cases, tmp_path):
    model = bright_segmenter(("flair", "t1ce"))
    predict_volumes(model, cases, tmp_path / "out")
    small = bright_segmenter(("flair", "t1ce"))
    predict_volumes(small, cases, tmp_path / "hard", Settings(threshold=0.25))
    for kind, most in (("probability", 1), ("disagreement", 0.5)):
        path = tmp_path / "out" / f"{CASE}_{kind}.nii.gz"
        read = nibabel.load(path).get_fdata()
        assert np.array_equal(read.T, sitk.GetArrayFromImage(sitk.ReadImage(str(path))))
        assert 0 == read.min() < read.max() <= most
        assert (read * 256 == np.round(read * 256)).all()
    probability = nibabel.load(tmp_path / "out" / f"{CASE}_probability.nii.gz").get_fdata()
    mask = nibabel.load(tmp_path / "hard" / f"{CASE}_mask.nii.gz").get_fdata() > 0
    assert probability[mask].min() >= 0.25 - 1 / 512
    assert probability[~mask].max() <= 0.25 + 1 / 512


@pytest.mark.parametrize("calibration", [None, TemperatureScaling(2.0, 1.0)])
def test_a_threshold_is_that_of_the_written_probability(calibration, photos, tmp_path):
    model = dark_segmenter(calibration=calibration)
    predict_pictures(model, photos, tmp_path / "out", Settings(threshold=0.9))
    for name in ("p0", "p1"):
        mask, probability = (load(tmp_path / "out" / f"{name}_{kind}.png") for kind in ("mask", "probability"))
        assert (probability[mask > 0] >= 229).all()  # 0.9 is 229.5
        assert (probability[mask == 0] <= 230).all()
        assert mask.any()
    assert model.threshold == 0.5
    with pytest.raises(DataError, match=r"threshold 0\.9 then and None now"):
        predict_pictures(model, photos, tmp_path / "out", resume=True)


@pytest.mark.parametrize("threshold", [0.01, 0.99])
def test_contours_hold_the_mask_of_any_threshold(threshold, photos, tmp_path):
    fitted = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, num_samples=3, num_steps=1)
    predict_pictures(dark_segmenter(conformal=fitted), photos, tmp_path / "out", Settings(threshold=threshold))
    inner, mask, outer = (load(tmp_path / "out" / f"p0_{kind}.png") > 0 for kind in ("inner", "mask", "outer"))
    assert (inner <= mask).all()
    assert (mask <= outer).all()


def test_the_table_has_the_columns_that_apply(photos, tmp_path):
    fitted = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, num_samples=3, num_steps=1)
    calibrated, nested = {"area_low", "area_high"}, {f"vertical_ratio{end}" for end in ("", "_low", "_high")}
    for name, model, expected in (
        ("plain", dark_segmenter(), set()),
        ("calibrated", dark_segmenter(conformal=fitted), calibrated),
        ("nested", dark_segmenter(regions=("disc", "cup")), nested),
    ):
        predict_pictures(model, photos, tmp_path / name)
        [*_, last] = rows(tmp_path / name)
        assert set(last) & (calibrated | nested) == expected
        assert "nan" not in last.values()
        assert list(last) == yaml.safe_load((tmp_path / name / "predictions.yaml").read_text())["outputs"]["columns"]
        assert predict_pictures(model, photos, tmp_path / name, resume=True).kept == ["p0", "p1"]


def test_a_table_of_before_is_read(photos, tmp_path):
    """Earlier versions wrote every column, nan where it does not apply, and no outputs."""
    predict_pictures(dark_segmenter(), photos, tmp_path / "out")
    table, settings = tmp_path / "out" / "predictions.csv", tmp_path / "out" / "predictions.yaml"
    before = [row | {"area_low": "nan", "vertical_ratio": "nan"} for row in rows(tmp_path / "out")]
    with table.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(before[0]))
        writer.writeheader()
        writer.writerows(before)
    written = yaml.safe_load(settings.read_text())
    del written["outputs"]
    settings.write_text(yaml.safe_dump(written))
    assert predict_pictures(dark_segmenter(), photos, tmp_path / "out", resume=True).kept == ["p0", "p1"]
    assert "area_low" not in rows(tmp_path / "out")[0]


def test_areas_in_mm2(photos, tmp_path):
    fitted = Conformal([0.9], [0.2], [1.5], 0.95, 0.9, 20, num_samples=3, num_steps=1)
    model = dark_segmenter(conformal=fitted)
    predict_pictures(model, photos[:1], tmp_path / "out")
    assert not any("mm2" in name for name in rows(tmp_path / "out")[0])
    outputs = Outputs(pixel_size=(0.02, 0.5))
    predict_pictures(model, photos, tmp_path / "out", resume=True, outputs=outputs)
    for row in rows(tmp_path / "out"):
        for name in ("area", "samples_area_min", "samples_area_max", "area_low", "area_high"):
            assert float(row[f"{name}_mm2"]) == pytest.approx(float(row[name]) * 0.01, rel=1e-4)


def test_an_empty_mask_is_as_uncertain_as_samples_are_not_empty(photos, cases, tmp_path):
    """Two of four samples find something, each somewhere else, so that no majority does."""
    model = dark_segmenter(num_samples=4, fusion=MajorityFusion(), calibration=TemperatureScaling())

    def draw(image, generators, num_steps):
        samples = torch.zeros(len(image), 4, 1, 32, 32)
        samples[:, 0, :, :8, :8] = samples[:, 1, :, 16:24, 16:24] = 1
        return SampleSet(samples)

    model.draw_samples = draw
    report = predict_pictures(model, photos, tmp_path / "out")
    for row in rows(tmp_path / "out"):
        assert int(row["area"]) == int(row["samples_area_min"]) == 0
        assert float(row["uncertainty"]) == 0.5
    assert tmp_path / "out" / "predictions.csv" not in report.notes
    volumes = bright_segmenter(("flair", "t1ce"), num_samples=4, fusion=MajorityFusion())
    volumes.draw_samples = draw
    assert predict_volumes(volumes, cases, tmp_path / "volumes").failed == {}
    [row] = rows(tmp_path / "volumes")
    assert (float(row["volume_ml"]), float(row["uncertainty"])) == (0, 0.5)


def test_masks_that_no_sample_is_as_small_as_are_noted(photos, tmp_path):
    model = dark_segmenter(num_samples=2, fusion=MajorityFusion())

    def draw(image, generators, num_steps):
        samples = torch.zeros(len(image), 2, 1, 32, 32)
        samples[:, 0, :, :8], samples[:, 1, :, 16:] = 1, 1
        return SampleSet(samples)

    model.draw_samples = draw
    report = predict_pictures(model, photos, tmp_path / "out")
    assert "2 of 2 masks are smaller or larger" in report.notes[tmp_path / "out" / "predictions.csv"]
    assert all(int(row["area"]) < int(row["samples_area_min"]) for row in rows(tmp_path / "out"))


# Earlier results, killed runs, other processes.


def test_overwrite_replaces_earlier_results_and_nothing_else(photos, tmp_path):
    out = tmp_path / "out"
    predict_pictures(
        dark_segmenter(regions=("disc", "cup")), photos, out, panels=True, outputs=Outputs(samples="image")
    )
    (out / "notes_mask.png").write_text("my own")
    predict_pictures(dark_segmenter(), photos[1:], out, Settings(num_samples=2), overwrite=True)
    kinds = ("disagreement", "mask", "probability")
    assert names(out) == ["notes_mask.png", *(f"p1_{kind}.png" for kind in kinds)]
    assert (out / "notes_mask.png").read_text() == "my own"
    assert [row["image"] for row in rows(out)] == ["p1"]
    assert predict_pictures(dark_segmenter(), photos[1:], out, Settings(num_samples=2), resume=True).kept == ["p1"]


def test_overwrite_spares_folders_that_are_not_ours(photos, tmp_path):
    (tmp_path / "truth").mkdir()
    (tmp_path / "truth" / "p0_mask.png").write_text("drawn by hand")
    with pytest.raises(DataError, match="holds files that are not predictions"):
        predict_pictures(dark_segmenter(), photos, tmp_path / "truth", overwrite=True)
    assert (tmp_path / "truth" / "p0_mask.png").read_text() == "drawn by hand"


def test_overwrite_does_not_reach_outside(photos, tmp_path):
    predict_pictures(dark_segmenter(), photos, tmp_path / "out")
    (tmp_path / "x_mask.png").write_text("outside")
    table = tmp_path / "out" / "predictions.csv"
    table.write_text(table.read_text().replace("p0,", "../x,").replace("p1,", f"{tmp_path}/x,"))
    predict_pictures(dark_segmenter(), photos, tmp_path / "out", overwrite=True)
    assert (tmp_path / "x_mask.png").read_text() == "outside"


def leave_temporary(folder, name):
    """Leave what a kill in the middle of :func:`write_whole` leaves."""
    folder.mkdir(exist_ok=True, parents=True)
    seen = []
    write_whole(folder / name, lambda path: (seen.append(path), path.write_text("half")))
    (folder / name).rename(seen[0])
    return seen[0]


def test_temporary_files_of_killed_runs_go(photos, tmp_path):
    out = tmp_path / "out"
    first = leave_temporary(out, "predictions.yaml")  # killed before there was anything
    predict_pictures(dark_segmenter(), photos, out)
    assert not first.exists()
    left = [leave_temporary(out, "p2_mask.png"), leave_temporary(out / "sub", "a_mask.png")]
    (out / ".tmp-mine").write_text("not ours")
    assert predict_pictures(dark_segmenter(), photos, out, resume=True).kept == ["p0", "p1"]
    assert not any(path.exists() for path in left)
    assert (out / ".tmp-mine").is_file()


def test_temporary_files_in_foreign_folders_stay(photos, tmp_path):
    left = leave_temporary(tmp_path / "out", "a.csv")
    (tmp_path / "out" / "b.txt").touch()
    with pytest.raises(DataError, match="not predictions"):
        predict_pictures(dark_segmenter(), photos, tmp_path / "out")
    assert left.exists()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_two_processes_do_not_write_to_one_folder(options, photos, tmp_path):
    out = tmp_path / "out"
    predict_pictures(dark_segmenter(), photos, out)
    left = leave_temporary(out, "p2_mask.png")
    with lock_folder(out), pytest.raises(DataError, match="Another process writes to"):
        predict_pictures(dark_segmenter(), photos, out, **options)
    assert left.exists()
    assert len(rows(out)) == 2
    assert predict_pictures(dark_segmenter(), photos, out, resume=True).kept == ["p0", "p1"]


def test_a_folder_that_another_process_filled_meanwhile(photos, tmp_path, monkeypatch):
    model, out = dark_segmenter(), tmp_path / "out"
    from diffmedseg.prediction.folder import PredictionFolder

    check = PredictionFolder.check_names

    def meanwhile(folder, given):
        monkeypatch.undo()
        predict_pictures(dark_segmenter(), photos, out)
        check(folder, given)

    monkeypatch.setattr(PredictionFolder, "check_names", meanwhile)
    with pytest.raises(DataError, match="holds predictions already"):
        predict_pictures(model, photos, out)


def test_the_lock_goes_with_the_call(photos, tmp_path):
    model = dark_segmenter()

    def interrupted(*_):
        raise KeyboardInterrupt

    model.draw_samples = interrupted
    with pytest.raises(KeyboardInterrupt):
        predict_pictures(model, photos, tmp_path / "out")
    with lock_folder(tmp_path / "out") as held:
        assert held
