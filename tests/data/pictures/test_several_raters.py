"""Data sets of several raters: maps of agreement, drawn outlines, slices in NIfTI files, and files by rater."""

import json

import numpy as np
import pytest
from helpers.isic_files import write
from helpers.layout_files import (
    RIGA_SIZE,
    agreement,
    draw,
    filled,
    photo,
    texture,
    write_ddti,
    write_drishti,
    write_imapp,
    write_qubiq,
    write_riga,
    write_slice,
    write_tn3k,
)
from helpers.picture_files import SIZE, lesion, save, save_mask, yaml_module
from helpers.tiny_run import TINY
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import ISIC2017DataModule
from diffmedseg.errors import DataError
from diffmedseg.segmentation import majority

WRITERS = {
    "ddti": write_ddti, "drishti": write_drishti, "imapp": write_imapp, "qubiq": write_qubiq, "riga": write_riga,
    "tn3k": write_tn3k,
}  # fmt: skip


def check(name, root, capsys, *options):
    with pytest.raises(SystemExit) as done:
        main(["data", "check", name, str(root), "--json", "--set", "image_size=24", *map(str, options)])
    found = json.loads(capsys.readouterr().out)
    assert done.value.code == (0 if found["passed"] else 1)
    return found


@pytest.mark.parametrize("name", WRITERS)
def test_a_sound_data_set_passes_the_check(name, tmp_path, capsys):
    WRITERS[name](tmp_path)
    found = check(name, tmp_path, capsys)
    assert found["problems"] == []
    assert sum(len(split["ids"]) for split in found["splits"].values()) >= 7


@pytest.mark.parametrize("name", WRITERS)
def test_an_empty_folder_says_where_to_get_the_data(name, tmp_path):
    with pytest.raises(DataError, match=r"(?s)No picture in .*From https?://.*Then name their folder"):
        yaml_module(name, tmp_path).load("train")


# Drishti-GS1.


def test_a_map_of_four_experts_gives_four_nested_masks(tmp_path):
    write_drishti(tmp_path)
    data = yaml_module("drishti", tmp_path)
    assert (data.info.raters, data.info.regions, data.info.nested) == (4, ("disc", "cup"), True)
    store = data.load("test")
    assert store.ids == ["Test_drishtiGS_001", "Test_drishtiGS_002", "Test_drishtiGS_003"]
    masks = store.reference(0)
    for rater, size in enumerate((1.2, 1.1, 1.0, 0.9)):
        assert np.array_equal(masks[rater, 0], lesion(0, size))
        assert np.array_equal(masks[rater, 1], lesion(0, 0.5 * size))
    assert np.array_equal(majority(masks)[0], lesion(0, 1.1))  # two of four


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (agreement(1) // 2, r"ODsegSoftmap\.png has values 32, 95; a map of agreement has the values 0, 63"),
        (lesion(1).astype(np.uint8), r"ODsegSoftmap\.png has values 1; a map of agreement has the values"),
        (lesion(1), r"ODsegSoftmap\.png has values True; a map of agreement has"),
        (agreement(1)[:9], r"The masks of .*drishtiGS_002\.png have different sizes"),
    ],
)  # fmt: skip
def test_a_map_of_other_values_or_size_is_refused(values, message, tmp_path):
    write_drishti(tmp_path)
    folder = tmp_path / "Drishti-GS1_files" / "Training" / "GT" / "drishtiGS_002" / "SoftMap"
    Image.fromarray(values).save(folder / "drishtiGS_002_ODsegSoftmap.png")
    with pytest.raises(DataError, match=message):
        yaml_module("drishti", tmp_path).load("train")


def test_rounding_of_a_map_does_not_matter(tmp_path):
    write_drishti(tmp_path)
    path = tmp_path / "Drishti-GS1_files/Training/GT/drishtiGS_002/SoftMap/drishtiGS_002_ODsegSoftmap.png"
    before = yaml_module("drishti", tmp_path)
    expected = before.layout.reader([]).read(before.cases["Training_drishtiGS_002"])
    values = np.asarray(Image.open(path))
    save(path, np.where(values == 64, 63, np.where(values == 128, 127, values)).astype(np.uint8))
    assert np.array_equal(before.layout.reader([]).read(before.cases["Training_drishtiGS_002"]), expected)


def test_a_region_without_its_map_is_named(tmp_path):
    write_drishti(tmp_path)
    (tmp_path / "Drishti-GS1_files/Test/Test_GT/drishtiGS_001/SoftMap/drishtiGS_001_cupsegSoftmap.png").unlink()
    with pytest.raises(DataError, match=r"drishtiGS_001\.png has no .*cupsegSoftmap, but other regions"):
        yaml_module("drishti", tmp_path).load("test")


# RIGA.


def test_masks_are_found_between_drawn_outlines_and_their_originals(tmp_path):
    write_riga(tmp_path)
    data = yaml_module("riga", tmp_path)
    assert (data.info.raters, data.info.regions, data.info.nested) == (6, ("disc", "cup"), True)
    assert sorted(data.load("test").ids) == [
        f"{folder}_image{number}" for folder in ("MagrabiFemale", "MagrabiaMale") for number in (1, 2)
    ]
    train = data.load("train")
    assert {id_.split("_")[0] for id_ in train.ids} <= {"BinRushed1-Corrected", "BinRushed2", "MESSIDOR"}
    for store in (data.load("test"), train):
        for rater, (disc, cup) in enumerate(store.reference(0).numpy()):
            for mask, radius in ((disc, 25 + rater), (cup, 11 + rater)):
                # Pillow draws inwards from the radius: the middle of two pixels is half a pixel within.
                assert (mask != filled(radius - 0.5)).sum() < 0.06 * filled(radius).sum()
            assert not (cup & ~disc).any()


@pytest.mark.parametrize("gap", [350, 355])
def test_small_gaps_of_a_drawn_outline_are_closed(gap, tmp_path):
    write_riga(tmp_path, each=1)
    drawn = draw(photo(3, RIGA_SIZE), (11,))
    drawn = draw(np.asarray(drawn), (25,), arc=gap)
    drawn.save(tmp_path / "MESSIDOR" / "image1-1.tif")
    store = yaml_module("riga", tmp_path).load("train")
    disc, cup = store.reference(store.ids.index("MESSIDOR_image1"))[0].numpy()
    assert (disc != filled(24.5)).sum() < 0.08 * filled(25).sum()
    assert (cup != filled(10.5)).sum() < 0.08 * filled(11).sum()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda image: draw(image, (25,)), r"image1-4\.tif has 1 closed outlines .*expected two"),
        (lambda image: draw(image, (25, 11), arc=200), r"image1-4\.tif has [01] closed outlines"),
        (lambda image: Image.fromarray(image), r"image1-4\.tif has 0 closed outlines that differ from image1prime"),
        (lambda image: draw(np.asarray(draw(image, (25,))), (11,), (55 - 14, 45)), r"image1-4\.tif has 2 closed outl"),
        (lambda image: draw(np.asarray(draw(image, (20,), (30, 45))), (20,), (80, 45)), r"image1-4\.tif has 2 closed"),
        (lambda image: draw(image, (25, 22)), r"image1-4\.tif has 1 closed outlines"),
        (lambda image: Image.fromarray(image[:60]), r"image1-4\.tif has 110 x 60 pixels and image1prime\.tif has"),
    ],
)  # fmt: skip
def test_outlines_that_cannot_be_told_are_refused_and_may_be_left_out(harm, message, tmp_path):
    """One outline; open ones; none; a cup that touches the disc; beside each other; one drawn twice; another size."""
    write_riga(tmp_path, each=1)
    path = tmp_path / "Magrabia" / "MagrabiaMale" / "image1-4.tif"
    with Image.open(path.with_name("image1prime.tif")) as original:
        harm(np.asarray(original)).save(path)
    with pytest.raises(DataError, match=message):
        yaml_module("riga", tmp_path).load("test")
    path.unlink()
    store = yaml_module("riga", tmp_path).load("test")
    assert [len(store.reference(index)) for index in range(2)] == [6, 5]


# QUBIQ.


def test_slices_have_as_many_raters_as_files(tmp_path):
    write_qubiq(tmp_path)
    data = yaml_module("qubiq", tmp_path)
    assert (data.info.raters, data.info.regions, data.info.channels) == (7, ("brain_growth",), ("grey",))
    assert "percentiles" in data.info.normalisation
    store = data.load("test")
    assert store.ids == ["Validation_case06", "Validation_case07"]
    assert [len(store.reference(index)) for index in range(2)] == [7, 6]
    assert [len(store.masks(index)) for index in range(2)] == [7, 6]
    assert np.array_equal(store.reference(0)[2, 0], lesion(6, 0.95))
    assert store.size_of(0) == SIZE


def test_a_slice_is_seen_as_it_lies_under_its_masks(tmp_path):
    """On a grid of its own size every pixel is kept: rows are rows, from the 0.5th to the 99.5th percentile."""
    write_qubiq(tmp_path)
    store = yaml_module("qubiq", tmp_path, image_size=SIZE).load("test")
    values = texture(60).astype(float)
    low, high = np.percentile(values, (0.5, 99.5))
    expected = ((values - low) / (high - low) * 255).round().clip(0, 255)
    assert np.abs(store.image(0)[0].numpy() - expected).max() <= 1
    assert np.array_equal(store.masks(0)[0, 0], lesion(6, 0.85))
    ranged = yaml_module("qubiq", tmp_path, image_size=SIZE, range=[-200, 2095]).load("test")
    assert np.abs(ranged.image(0)[0].numpy() - values).max() <= 1


def test_one_task_and_one_modality_are_taken(tmp_path):
    write_qubiq(tmp_path, "brain-tumor", raters=3, tasks=3, modalities=4)
    layout = {"class_path": "diffmedseg.data.QUBIQSlices"}
    stores = {}
    for task, modality in ((1, 1), (2, 3)):
        settings = layout | {"init_args": {"image_set": "brain-tumor", "task": task, "modality": modality}}
        data = yaml_module("qubiq", tmp_path, layout=settings, image_size=SIZE)
        assert (data.info.raters, data.info.regions) == (3, (f"brain_tumor_{task}",))
        stores[task] = data.load("test")
    assert np.array_equal(stores[2].reference(0)[0, 0], lesion(6, 0.85 / 2))
    for task, modality in ((1, 0), (2, 2)):
        values = texture(60 + modality).astype(float)
        image = stores[task].image(0)[0].numpy()
        assert np.corrcoef(image.ravel(), values.ravel())[0, 1] > 0.99


def test_png_files_of_qubiq_are_read_alike(tmp_path):
    for part, number in [("Training", n) for n in range(4)] + [("Validation", 9)]:
        folder = tmp_path / "kidney" / part / f"case{number}"
        save(folder / "image.png", texture(number))
        for rater in (1, 2, 3):
            save_mask(folder / f"task01_seg0{rater}.png", lesion(number, 0.8 + rater / 20))
    layout = {"class_path": "diffmedseg.data.QUBIQSlices", "init_args": {"image_set": "kidney"}}
    store = yaml_module("qubiq", tmp_path, layout=layout, image_size=SIZE).load("test")
    assert np.array_equal(store.image(0)[0], texture(9))
    assert np.array_equal(store.reference(0)[1, 0], lesion(9, 0.9))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda case: write_slice(case / "image.nii.gz", np.zeros((*SIZE, 9))), r"image\.nii\.gz has 30 x 24 x 9 vox"),
        (lambda case: write_slice(case / "image.nii.gz", np.zeros((*SIZE, 2))), r"image\.nii\.gz has 2 modalities; ex"),
        (lambda case: (case / "image.nii.gz").write_bytes(b"x"), r"image\.nii\.gz cannot be read"),
        (lambda case: write_slice(case / "task01_seg02.nii.gz", np.zeros((9, 9))), r"masks of .*image\.nii\.gz have d"),
        (lambda case: write_slice(case / "task01_seg02.nii.gz", np.full(SIZE, 3.0)), r"seg02\.nii\.gz has values 3 to"),
        (lambda case: write_slice(case / "task01_seg08.nii.gz", np.zeros(SIZE)), r"image\.nii\.gz has 8 masks; exp"),
        (lambda case: save_mask(case / "task01_seg02.png", lesion(0)), r"Two files are the mask.*rater: .*seg02\.nii"),
        (lambda case: save(case / "image.png", texture(0)), r"Two pictures have the name Training_case02"),
    ],
)  # fmt: skip
def test_files_of_qubiq_that_do_not_fit_are_named(harm, message, tmp_path):
    write_qubiq(tmp_path)
    harm(tmp_path / "training_data_v3_QC" / "brain-growth" / "Training" / "case02")
    with pytest.raises(DataError, match=message):
        yaml_module("qubiq", tmp_path).load("train")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_set": "pancreas"}, "image_set is 'pancreas'; expected brain-growth"),
        ({"image_set": "prostate", "task": 3}, "task is 3; expected 1 to 2 for prostate"),
        ({"image_set": "kidney", "modality": 2}, "modality is 2; expected 1 to 1 for kidney"),
    ],
)
def test_tasks_that_qubiq_does_not_have(settings, message, tmp_path):
    layout = {"class_path": "diffmedseg.data.QUBIQSlices", "init_args": settings}
    with pytest.raises(DataError, match=message):
        yaml_module("qubiq", tmp_path, layout=layout)


# IMA++.


def test_every_file_of_an_annotator_is_a_rater_and_fused_masks_are_none(tmp_path):
    write_imapp(tmp_path)
    data = yaml_module("imapp", tmp_path)
    assert data.info.raters == 5
    found = {}
    for split in ("train", "val", "test"):
        store = data.load(split)
        found |= {name: len(store.reference(index)) for index, name in enumerate(store.ids)}
    assert found == {f"ISIC_{n:07d}": raters for n, raters in enumerate((1, 2, 3, 5, 2, 1, 2, 4))}
    case = data.cases["ISIC_0000003"]
    assert np.array_equal(data.layout.reader([case]).read(case)[4, 0], lesion(3, 1.2))


def test_patients_of_the_table_stay_together(tmp_path, caplog):
    write_imapp(tmp_path)
    data = yaml_module("imapp", tmp_path)
    assert {data.patient(f"ISIC_{n:07d}") for n in (0, 1)} == {"patient_id:IP_1"}
    assert data.patient("ISIC_0000002") == "ISIC_0000002"
    table = tmp_path / "IMAplusplus_img_metadata.csv"
    table.write_text("isic_id\nISIC_0000000")
    with pytest.raises(DataError, match=r"IMAplusplus_img_metadata\.csv has no column lesion_id, patient_id"):
        yaml_module("imapp", tmp_path).load("train")
    table.unlink()
    yaml_module("imapp", tmp_path).load("train")
    assert "IMAplusplus_img_metadata.csv is missing. Pictures of one patient may be in several splits" in caplog.text


def test_images_with_several_masks_can_be_chosen(tmp_path):
    write_imapp(tmp_path)
    data = yaml_module("imapp", tmp_path, min_nonempty=2)
    ids = {name for split in ("train", "val", "test") for name in data.load(split).ids}
    assert ids == {f"ISIC_{n:07d}" for n in (1, 2, 3, 4, 6, 7)}


def test_images_that_isic_2017_has_are_found(tmp_path, capsys):
    write_imapp(tmp_path / "imapp")
    write(tmp_path / "isic", ISIC2017DataModule, training=12, test=2)
    found = check("imapp", tmp_path / "imapp", capsys, "--against", "isic2017", tmp_path / "isic")
    assert not found["passed"]
    shared = {name for problem in found["problems"] if problem["kind"] == "same id" for name in problem["names"]}
    assert shared == {f"ISIC_{n:07d}" for n in range(8)}


def test_masks_without_an_image_are_named(tmp_path, caplog):
    write_imapp(tmp_path)
    (tmp_path / "images" / "ISIC_0000001.JPG").unlink()
    yaml_module("imapp", tmp_path).load("train")
    assert "2 masks without a picture" in caplog.text
    assert "_ST_" not in caplog.text


@pytest.mark.parametrize("name", ["imapp", "qubiq"])
def test_train_on_unequal_numbers_of_raters(name, tmp_path):
    WRITERS[name](tmp_path / "data")
    tiny = [option for option in TINY if not option.startswith("--data.num_")]
    main(["train", "medsegdiff-lite", name, *tiny, f"--data.root={tmp_path / 'data'}", f"--runs={tmp_path}"])
    rows = (tmp_path / f"medsegdiff-lite-{name}" / "version_0" / "cases.csv").read_text()
    assert "num_raters" in rows
