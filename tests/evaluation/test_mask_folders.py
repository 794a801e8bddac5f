import json

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.mri_files import write_nifti
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.errors import DataError
from diffmedseg.evaluation.mask_folders import mask_key, pair_masks, read_mask, score_folders, score_pairs


def draw(seed, size=(40, 50)):
    y, x = np.mgrid[: size[0], : size[1]]
    middle = np.random.default_rng(seed).normal((20, 25), 3)
    return (y - middle[0]) ** 2 + (x - middle[1]) ** 2 < 100


def save(path, mask, high=255, dtype=np.uint8):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask.astype(dtype) * dtype(high)).save(path)


@pytest.fixture
def folders(tmp_path):
    for case in range(4):
        save(tmp_path / "truth" / f"ISIC_{case}_segmentation.png", draw(case))
        save(tmp_path / "predictions" / f"ISIC_{case}_segmentation_prediction.png", draw(case + 10))
    return tmp_path / "predictions", tmp_path / "truth"


@pytest.mark.parametrize(
    ("name", "key"),
    [("ISIC_1_segmentation.png", "ISIC_1"), ("ISIC_1_Segmentation_prediction.PNG", "ISIC_1"), ("ISIC_1.jpg", "ISIC_1"),
     ("a-mask.tif", "a"), ("case_7_whole_pred_mask.nii.gz", "case_7_whole"), ("BraTS_1_seg.nii", "BraTS_1"),
     ("mask.png", "mask"), ("x_ground_truth.bmp", "x"), ("unmasked.png", "unmasked"), ("a_gt_out.gif", "a")],
)  # fmt: skip
def test_what_a_mask_is_of(name, key, tmp_path):
    assert mask_key(tmp_path / name) == key


def test_scores_are_those_of_another_implementation(folders):
    for row in score_folders(*folders, spacing=(0.5, 2.0)):
        case = int(row.case[-1])
        images = [sitk.GetImageFromArray(draw(number).astype(np.uint8)) for number in (case + 10, case)]
        overlap = sitk.LabelOverlapMeasuresImageFilter()
        overlap.Execute(*images)
        assert row.dice == pytest.approx(overlap.GetDiceCoefficient(1))
        assert row.iou == pytest.approx(overlap.GetJaccardCoefficient(1))
        assert 1 - row.sensitivity == pytest.approx(overlap.GetFalseNegativeError(1))
        assert 1 - row.precision == pytest.approx(overlap.GetFalseDiscoveryRate(1))
        assert row.thresholded_jaccard == (row.iou if row.iou >= 0.65 else 0)
        assert row.hd95 > 0
        assert np.isnan(row.hd95_pixels)


def test_json(folders, capsys):
    main(["score", *map(str, folders), "--json"])
    found = json.loads(capsys.readouterr().out)
    rows = score_folders(*folders)
    for name in ("iou", "dice", "sensitivity"):
        assert found[name]["mean"] == pytest.approx(np.mean([getattr(row, name) for row in rows]))
        assert found[name]["low"] <= found[name]["mean"] <= found[name]["high"]
    assert found["cases"]["ISIC_2"]["dice"] == pytest.approx(rows[2].dice)
    assert found["cases"]["ISIC_2"]["hd95"] is None
    assert found["cases"]["ISIC_2"]["hd95_pixels"] == rows[2].hd95_pixels > 0
    assert "pixels" in found["policy"]["surfaces"]
    assert "both_empty" in found["policy"]


def test_table_and_csv_are_what_compare_takes(folders, tmp_path, capsys):
    main(["score", *map(str, folders), "--out", str(tmp_path / "a.csv")])
    main(["score", str(folders[1]), str(folders[1]), "--out", str(tmp_path / "b.csv")])
    assert "mean over 4 cases" in capsys.readouterr().out
    main(["compare", str(tmp_path / "b.csv"), str(tmp_path / "a.csv"), "--json"])
    b, a = (one for one in json.loads(capsys.readouterr().out) if one["score"] == "dice")
    assert b["mean"] == 1
    assert a["difference"] == pytest.approx(np.mean([row.dice for row in score_folders(*folders)]) - 1)
    assert (a["above"], a["cases"]) == (0, 4)
    main(["compare", str(tmp_path / "b.csv"), str(tmp_path / "a.csv")])
    assert "0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("high", "dtype"), [(1, np.uint8), (255, np.uint8), (65535, np.uint16), (1, np.float32), (255, np.uint16)]
)
def test_half_of_the_range(high, dtype, tmp_path):
    save(tmp_path / "a.tif", draw(0), high, dtype)
    assert np.array_equal(read_mask(tmp_path / "a.tif").values, draw(0))


def test_modes(tmp_path):
    picture = Image.fromarray(draw(0).astype(np.uint8) * 255)
    for mode, name in (("1", "a.png"), ("P", "b.gif"), ("RGBA", "c.png"), ("RGB", "d.jpg")):
        picture.convert(mode).save(tmp_path / name)
        assert (read_mask(tmp_path / name).values != draw(0)).mean() < 0.005, name
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "e.png")
    assert not read_mask(tmp_path / "e.png").values.any()


@pytest.mark.parametrize("values", [[0, 1, 2, 4], [50, 100], [-1, 0]])
def test_labels_are_no_mask(values, tmp_path):
    Image.fromarray(np.array([values], dtype=np.int32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif has values .*one mask per label"):
        read_mask(tmp_path / "a.tif")


def test_volumes(tmp_path):
    truth = np.stack([draw(0), draw(1), draw(2)])
    for name, mask in {"t/a_seg.nii.gz": truth, "p/a_mask.nii.gz": np.roll(truth, 1, 1)}.items():
        write_nifti(tmp_path / name, mask, np.uint8, spacing=(3.0, 1.0, 1.0))
    [row] = score_folders(tmp_path / "p", tmp_path / "t")
    assert row.num_slices == 3
    assert 0.8 < row.dice < 1
    assert row.hd95 == 1
    write_nifti(tmp_path / "p" / "a_mask.nii.gz", truth, np.uint8, spacing=(2.0, 1.0, 1.0))
    with pytest.raises(DataError, match="spacing"):
        score_folders(tmp_path / "p", tmp_path / "t")


def test_millimetres_and_pixels_are_not_averaged_together(folders, capsys):
    predictions, truth = folders
    for folder in folders:
        write_nifti(folder / "b.nii.gz", np.stack([draw(1)] * 2), np.uint8, spacing=(3.0, 1.0, 1.0))
    main(["score", str(predictions), str(truth), "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["hd95"]["cases"], found["hd95"]["mean"]) == (1, 0)
    assert found["hd95_pixels"]["cases"] == 4
    main(["score", str(predictions), str(truth)])
    said = capsys.readouterr().out
    assert all(title in said for title in ("HD95, mm", "HD95, pixels", "NSD at 1 mm", "NSD at 2 pixels"))


def test_what_cannot_be_paired(folders, tmp_path, capsys):
    predictions, truth = folders
    (predictions / "ISIC_1_segmentation_prediction.png").unlink()
    with pytest.raises(DataError, match=r"1 of 4 masks in .* have no prediction in .*: ISIC_1\. .*--common"):
        pair_masks(predictions, truth)
    assert list(pair_masks(predictions, truth, common=True).both) == ["ISIC_0", "ISIC_2", "ISIC_3"]
    save(predictions / "ISIC_0_probability.png", draw(0))  # is of nothing, and left out
    pairs = pair_masks(predictions, truth, common=True)
    assert (len(pairs.both), pairs.missing, pairs.extra) == (3, ["ISIC_1"], ["ISIC_0_probability"])
    main(["score", str(predictions), str(truth), "--common"])
    said = " ".join(capsys.readouterr().out.split())
    assert "left out: 1 reference masks without prediction (ISIC_1)" in said
    with pytest.raises(SystemExit, match=r"error: 1 of 4 masks"):
        main(["score", str(predictions), str(truth)])
    save(predictions / "deep" / "ISIC_0_mask.png", draw(0))
    with pytest.raises(DataError, match="have no prediction"):
        pair_masks(predictions, truth)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"No mask in .*\(nothing\)"):
        pair_masks(tmp_path / "empty", truth, common=True)
    with pytest.raises(DataError, match="is not a folder"):
        pair_masks(tmp_path / "gone", truth)


def test_sizes_that_differ_are_refused(folders):
    save(folders[0] / "ISIC_1_segmentation_prediction.png", draw(0, (20, 25)))
    with pytest.raises(DataError, match=r"1 masks differ in size: .*20 x 25.*40 x 50"):
        score_folders(*folders)


def test_unreadable(folders):
    (folders[0] / "ISIC_1_segmentation_prediction.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"ISIC_1_segmentation_prediction\.png: it cannot be decoded"):
        score_folders(*folders)


def test_the_range_is_that_of_the_folder(tmp_path, capsys):
    """A map that stays below half says that there is nothing; alone it could be coded otherwise."""
    for case in range(3):
        save(tmp_path / "t" / f"c{case}.png", draw(case), 1)
        save(tmp_path / "p" / f"c{case}.png", draw(case), 255)
    save(tmp_path / "p" / "c1.png", draw(1), 100)
    scored = score_pairs(pair_masks(tmp_path / "p", tmp_path / "t"))
    assert [row.dice for row in scored.rows] == [1, 0, 1]
    assert scored.faded == [tmp_path / "p" / "c1.png"]
    main(["score", str(tmp_path / "p"), str(tmp_path / "t")])
    said = " ".join(capsys.readouterr().out.split())
    assert "1 mask with all values below half of the range, scored as empty" in said


def test_masks_that_lie_in_colours_or_transparency_are_refused(tmp_path):
    red = np.zeros((*SIZE, 3), np.uint8)
    red[..., 0] = 255 * draw(0)
    alpha = np.full((*SIZE, 4), 255, np.uint8)
    alpha[..., 3] = 255 * draw(0)
    for name, values, message in (("red", red, "is coloured"), ("alpha", alpha, "partly transparent")):
        Image.fromarray(values).save(tmp_path / f"{name}.png")
        with pytest.raises(DataError, match=message):
            read_mask(tmp_path / f"{name}.png")
    palette = Image.fromarray(draw(0).astype(np.uint8), "P")
    palette.putpalette([0, 0, 0, 128, 0, 0])  # of PASCAL VOC
    palette.save(tmp_path / "voc.png")
    assert np.array_equal(read_mask(tmp_path / "voc.png").values, draw(0))


def test_names_that_say_nothing_are_told_apart_by_folders(tmp_path):
    for case in range(3):
        save(tmp_path / "t" / f"c{case}" / "mask.png", draw(case))
        save(tmp_path / "p" / f"c{case}" / "pred.png", draw(case))
    rows = score_folders(tmp_path / "t", tmp_path / "t")
    assert [row.case for row in rows] == ["c0/mask", "c1/mask", "c2/mask"]
    (tmp_path / "one" / "c1").mkdir(parents=True)
    (tmp_path / "t" / "c0" / "mask.png").rename(tmp_path / "one" / "c1" / "mask.png")
    with pytest.raises(DataError, match="have no prediction"):
        pair_masks(tmp_path / "one", tmp_path / "t")


SIZE = (40, 50)
