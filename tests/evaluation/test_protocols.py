"""Scores as others take them, in columns of their own."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate

from diffmedseg.cli import main
from diffmedseg.cli.scoring import _PROTOCOLS
from diffmedseg.errors import DataError
from diffmedseg.evaluation.mask_folders import pair_masks, score_folders
from diffmedseg.evaluation.protocols import PROTOCOLS, released_scores, score_brats, score_medsegdiff, score_pooled


def disc(radius, side=256):
    y, x = np.mgrid[:side, :side]
    return (y - side / 2) ** 2 + (x - side / 2) ** 2 < radius**2


def save(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


@pytest.fixture
def folders(tmp_path):
    """A small lesion that is missed and a large one that is found."""
    for name, predicted, true in (("a", disc(0), disc(10)), ("b", disc(80), disc(80))):
        save(tmp_path / "masks" / f"{name}_mask.png", predicted.astype(np.uint8) * 255)
        save(tmp_path / "truth" / f"{name}.png", true.astype(np.uint8) * 255)
    return tmp_path / "masks", tmp_path / "truth"


def test_pooled_pixels_count_a_large_lesion_more(folders):
    pooled = score_pooled(pair_masks(*folders))
    found, missed = int(disc(80).sum()), int(disc(10).sum())
    assert pooled.dice == pytest.approx(2 * found / (2 * found + missed))
    assert pooled.iou == pytest.approx(found / (found + missed))
    assert np.mean([row.dice for row in score_folders(*folders)]) == 0.5 < pooled.dice


def of_the_released_code(prediction, truth):
    """eval_seg of scripts/segmentation_env.py, written anew: soft maps (256, 256) in [0, 1]."""
    dice, iou = [], []
    for threshold in (0.1, 0.3, 0.5, 0.7, 0.9):
        a, b = (prediction > threshold).astype(float).ravel(), (truth > threshold).astype(float).ravel()
        dice.append((2 * a @ b + 1e-4) / (a.sum() + b.sum() + 1e-4))
        iou.append((a @ b + 1e-6) / (np.maximum(a, b).sum() + 1e-6))
    return np.mean(dice), np.mean(iou)


def test_the_released_protocol():
    rng, truth = np.random.default_rng(0), disc(60)
    soft = (disc(50) * 120 + rng.integers(0, 80, truth.shape)).astype(np.uint8)
    expected = of_the_released_code(soft / soft.max(), truth)
    assert released_scores(torch.from_numpy(soft), torch.from_numpy(truth)) == pytest.approx(expected, abs=1e-6)
    half = released_scores(torch.from_numpy(soft) / 2, torch.from_numpy(truth))
    assert half == pytest.approx(expected, abs=1e-6)  # divided by its own maximum: a map that is unsure looks sure
    nothing = torch.zeros(256, 256)
    assert released_scores(nothing, torch.from_numpy(disc(0))) == (1, 1)
    assert released_scores(nothing, torch.from_numpy(truth)) == pytest.approx((0, 0), abs=1e-6)


def test_other_sizes_are_resized():
    truth = torch.from_numpy(disc(120, 512))
    soft = interpolate(truth[None, None].float(), (256, 256), mode="bilinear", antialias=True)[0, 0]
    assert released_scores(soft, truth)[0] > 0.999
    assert released_scores(truth.float(), truth)[0] > 0.999


def test_probabilities_beside_masks_are_taken(folders):
    unsure = np.where(disc(80), 255, 100).astype(np.uint8)
    save(folders[0] / "b_probability.png", unsure)
    (folders[0] / "predictions.yaml").touch()
    scored = score_medsegdiff(pair_masks(*folders))
    assert scored.cases["b"] == pytest.approx(of_the_released_code(unsure / 255, disc(80)), abs=1e-6)
    assert scored.cases["b"][0] < 1
    assert scored.dice == pytest.approx((scored.cases["a"][0] + scored.cases["b"][0]) / 2)


def test_protocols_are_columns_beside_the_scores(folders, capsys):
    assert set(_PROTOCOLS) == set(PROTOCOLS)
    main(["score", *map(str, folders), "--json"])
    plain = json.loads(capsys.readouterr().out)
    main(["score", *map(str, folders), "--json", "--protocol", "medsegdiff", "--protocol=pooled"])
    found = json.loads(capsys.readouterr().out)
    protocols = found.pop("protocols")
    assert found == plain
    assert protocols["pooled"]["dice"] > found["dice"]["mean"] == 0.5
    assert "released code" in protocols["medsegdiff"]["policy"]
    main(["score", *map(str, folders), "--protocol", "pooled"])
    printed = capsys.readouterr().out
    [dice] = [line for line in printed.splitlines() if " Dice " in line]
    assert "0.5000" in dice
    assert f"{protocols['pooled']['dice']:.4f}" in dice
    assert dice.index("0.5000") < dice.index(f"{protocols['pooled']['dice']:.4f}")


def test_volumes_have_no_released_protocol(tmp_path):
    from helpers.mri_files import write_nifti

    for folder in ("masks", "truth"):
        (tmp_path / folder).mkdir()
        write_nifti(tmp_path / folder / "a.nii.gz", np.ones((2, 8, 8), np.uint8))
    pairs = pair_masks(tmp_path / "masks", tmp_path / "truth")
    assert score_pooled(pairs).dice == 1
    with pytest.raises(DataError, match=r"a\.nii\.gz is a volume\. The protocol medsegdiff scores pictures"):
        score_medsegdiff(pairs)


@pytest.fixture
def label_maps(tmp_path):
    """Label maps of BraTS 2023: one case is found but for a second enhancing tumour, the other is empty."""
    from helpers.mri_files import write_nifti

    z, y, x = np.mgrid[:24, :40, :40]

    def tumour(found, middle, values):
        for value, radius in zip(values, (9, 6, 4), strict=True):
            found[(z - 12) ** 2 + (y - middle) ** 2 + (x - 12) ** 2 <= radius**2] = value
        return found

    true = tumour(np.zeros(z.shape, np.uint8), 12, (2, 1, 3))
    predicted = true.copy()
    true[10:14, 32:36, 30:34] = 3  # 64 mm3
    for name, values in (("BraTS-GLI-00001-000", (predicted, true)), ("BraTS-GLI-00002-000", (0 * true, 0 * true))):
        for folder, one, end in zip(("masks", "truth"), values, ("_labels", "-seg"), strict=True):
            write_nifti(tmp_path / folder / f"{name}{end}.nii.gz", one, np.uint8, spacing=(1.0, 1.0, 1.0))
    return tmp_path / "masks", tmp_path / "truth"


def test_label_maps_are_scored_by_region_and_lesion(label_maps, tmp_path, capsys):
    command = ["score", *map(str, label_maps), "--labels", "brats2023", "--protocol", "brats"]
    main([*command, "--json", "--out", str(tmp_path / "cases.csv")])
    regions = json.loads(capsys.readouterr().out)["regions"]
    assert list(regions) == ["whole_tumour", "tumour_core", "enhancing_tumour"]
    for found in regions.values():
        theirs = found["protocols"]["brats"]
        assert theirs["cases"] == {
            "BraTS-GLI-00001-000": [0.5, 187, 1, 1, 0],  # the mean of one lesion that is found and one that is missed
            "BraTS-GLI-00002-000": [1, 0, 0, 0, 0],
        }
        assert (theirs["dice"], theirs["hd95"], theirs["iou"]) == (0.75, 93.5, None)
        assert 0.75 < found["dice"]["mean"] < 1
    core, enhancing = (
        regions[name]["cases"]["BraTS-GLI-00001-000"]["dice"] for name in ("tumour_core", "enhancing_tumour")
    )
    assert enhancing < core
    rows = (tmp_path / "cases.csv").read_text().splitlines()
    assert len(rows) == 1 + 3 * 2
    main(command)
    printed = capsys.readouterr().out
    assert printed.count("0.7500") == printed.count("93.5000") == 3
    assert "1 empty mask of tumour_core predicted empty" in " ".join(printed.split())


def test_own_codes_give_the_same_scores(label_maps, capsys):
    own = "whole_tumour=1+2+3,tumour_core=1+3,enhancing_tumour=3"
    printed = []
    for labels in ("brats2023", own):
        main(["score", *map(str, label_maps), "--labels", labels, "--json"])
        printed.append(json.loads(capsys.readouterr().out))
    assert printed[0] == printed[1]


def test_label_maps_of_another_year_are_refused(label_maps):
    for labels, said in (
        ("brats", "has the label 3, and --labels has 1, 2, 4"),
        ("core=", "not REGION=VALUE"),
        ("core=1,core=2", "names a region twice"),
    ):
        with pytest.raises(SystemExit, match=said):
            main(["score", *map(str, label_maps), "--labels", labels])
    with pytest.raises(SystemExit, match="leave --labels or --protocol medsegdiff out"):
        main(["score", *map(str, label_maps), "--labels", "brats2023", "--protocol", "medsegdiff"])


def test_pictures_have_no_lesions_of_volumes(folders):
    with pytest.raises(DataError, match=r"is a picture\. The protocol brats scores lesions of volumes"):
        score_brats(pair_masks(*folders))
