import csv
import json
import math
import sys
from types import SimpleNamespace

import pytest
import torch
from helpers.dark_disc import BrightSegmenter, dark_segmenter
from helpers.mri_files import data_module, write_brats2015
from helpers.tiny_run import tiny_data, tiny_model, tiny_trainer
from matplotlib.figure import Figure

from diffmedseg.callbacks import (
    CaseMetrics,
    DenseCRFRefinement,
    GeneralizedEnergyDistance,
    MultiSampleEnsemble,
    SamplePanels,
    SmallestParts,
    panels,
)
from diffmedseg.callbacks.case_metrics import settings
from diffmedseg.errors import DataError
from diffmedseg.metrics import diversity, generalized_energy_distance
from diffmedseg.metrics.surface import surface_scores
from diffmedseg.postprocessing.crf import CRFSettings, DenseCRF
from diffmedseg.postprocessing.fusion import MajorityFusion, STAPLEFusion
from diffmedseg.postprocessing.refinement import LargestComponent
from diffmedseg.segmentation import Segmentation


def scored(folder, *callbacks, model=None):
    metrics = CaseMetrics()
    trainer = tiny_trainer(folder, callbacks=[*callbacks, metrics])
    torch.manual_seed(0)
    trainer.test(model or tiny_model(num_samples=5), tiny_data(), verbose=False)
    with next(folder.rglob("cases.csv")).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_ensemble_is_the_models_own_fusion(tmp_path):
    """The same samples by the same rule, in the model or in the callback."""
    torch.manual_seed(3)
    own = tiny_model(num_samples=5, fusion=STAPLEFusion())
    torch.manual_seed(3)
    plain = tiny_model(num_samples=5)
    a = scored(tmp_path / "a", model=own)
    b = scored(tmp_path / "b", MultiSampleEnsemble(STAPLEFusion()), model=plain)
    c = scored(tmp_path / "c", model=plain)
    for name in ("dice", "brier", "diversity"):
        assert [row[name] for row in a] == [row[name] for row in b]
    assert [row["brier"] for row in a] != [row["brier"] for row in c]
    assert [row["diversity"] for row in a] == [row["diversity"] for row in c]


def test_pictures_without_spacing_have_distances_in_pixels(tmp_path):
    for row in scored(tmp_path):
        assert float(row["hd95_pixels"]) >= 0
        assert 0 <= float(row["nsd_pixels"]) <= 1
        assert (row["hd95"], row["nsd"]) == ("", "")


def last_slice(spacing, seen=None, case="a", count=1, num_slices=0, columns=6):
    """Score masks of 6 ``columns`` against a reference of 4, ``count`` of the ``num_slices`` slices of a case."""
    scorer, masks = CaseMetrics(), torch.zeros(2, 1, 1, 8, 8)
    masks[0, ..., :4], masks[1, ..., :columns] = 1, 1
    found = Segmentation(masks[1:, 0], masks[1], masks[1], masks[1] > 0)
    batch = {"case": [case], "reference": [masks[0].to(torch.uint8)], "spacing": [spacing], "field_of_view": [seen]}
    batch |= {"window": [None], "num_slices": [num_slices]}
    model, trainer = tiny_model(), tiny_trainer(None)
    for index in range(count):
        outputs = {"segmentation": found, "seconds": 0.0}
        scorer.on_test_batch_end(trainer, model, outputs, batch | {"index": [index]}, index)
    scorer._close_case()
    return scorer.surfaces.get(case)


def test_distances_stop_where_the_field_of_view_does():
    seen = torch.zeros(8, 8, dtype=torch.bool)
    seen[:, :5] = True
    assert last_slice(None)[0].hd95 == 2
    assert last_slice(None, seen)[0].hd95 == 1


def test_the_distance_of_an_empty_mask_is_the_diagonal_of_all_slices():
    """As `score` measures it on whole files, also where the last slices show nothing and are not tested."""
    volume = torch.zeros(9, 8, 8, dtype=torch.bool)
    volume[:2, :, :4] = True
    whole = surface_scores(torch.zeros_like(volume), volume, (3.0, 1.0, 1.0))
    assert whole.hd95 == pytest.approx(math.hypot(27, 8, 8))
    assert last_slice((3.0, 1.0, 1.0), count=2, num_slices=9, columns=0)[0].hd95 == whole.hd95
    assert last_slice((3.0, 1.0, 1.0), count=2, num_slices=9)[0].hd95 == 2  # two masks do not depend on it
    assert last_slice(None, num_slices=1, columns=0)[0].hd95 == pytest.approx(math.hypot(8, 8))


def test_slices_that_are_nobody_knows_how_far_apart_have_no_distances():
    assert last_slice((3.0, 1.0, 1.0), count=2)[0].hd95 == 2
    assert last_slice(None, count=2) is None


def test_a_refinement_is_scored_before_and_after(tmp_path):
    pytest.importorskip("pydensecrf")
    model = tiny_model(num_samples=2)
    plain = scored(tmp_path / "plain", model=model)
    refined = scored(tmp_path / "crf", DenseCRFRefinement(DenseCRF(CRFSettings(bilateral_xy=5))), model=model)
    for name in ("dice", "brier", "nll"):
        assert [row[f"{name}_unrefined"] for row in refined] == [row[name] for row in plain]
        assert {row[f"{name}_unrefined"] for row in plain} == {""}
    for name in ("brier", "nll"):
        assert [row[name] for row in refined] != [row[name] for row in plain]


def test_the_policy_says_with_which_settings_masks_were_fused(tmp_path):
    scored(tmp_path, MultiSampleEnsemble(STAPLEFusion(max_iterations=7)))
    policy = json.loads(next(tmp_path.rglob("metrics.json")).read_text())["policy"]
    assert policy["fusion"] == {
        "class": "STAPLEFusion", "max_iterations": 7, "tolerance": 1e-12, "start": "votes"
    }  # fmt: skip
    assert policy["refinement"] is None


def test_settings_of_rules_within_rules():
    found = settings(LargestComponent(DenseCRF(CRFSettings(bilateral_xy=5))))
    assert found["first"]["settings"] == {"class": "CRFSettings", **vars(CRFSettings(bilateral_xy=5))}
    assert "_pool" not in found["first"]
    rule = STAPLEFusion()
    rule.prior = torch.ones(2)  # somebody's own rule may hold what JSON does not
    assert json.loads(json.dumps(settings(rule)))["prior"] == "tensor([1., 1.])"


def test_the_refinement_is_the_models_own(tmp_path):
    """In the model or in the callback, with or without a Trainer; an ensemble takes the place of the model's own."""
    pytest.importorskip("pydensecrf")
    crf = DenseCRF(CRFSettings(bilateral_xy=5))
    torch.manual_seed(3)
    own = tiny_model(num_samples=2, refinement=crf)
    torch.manual_seed(3)
    plain = tiny_model(num_samples=2)
    a = scored(tmp_path / "a", model=own)
    b = scored(tmp_path / "b", DenseCRFRefinement(crf), model=plain)
    c = scored(tmp_path / "c", MultiSampleEnsemble(), model=own)
    d = scored(tmp_path / "d", model=plain)
    for one, other in ((a, b), (c, d)):
        for name in ("dice", "brier", "dice_unrefined"):
            assert [row[name] for row in one] == [row[name] for row in other]
    assert [row["brier"] for row in a] != [row["brier"] for row in c]


def test_without_pydensecrf_masks_stay_as_they_were_and_that_is_said(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", None)
    image = torch.zeros(1, 3, 16, 16)
    torch.manual_seed(3)
    own = tiny_model(refinement=DenseCRF())
    with pytest.warns(UserWarning, match="not refined: The CRF needs pydensecrf: pip install pydensecrf2"):
        found = own.segment(image, keys=["a"])
    own.refinement = None
    assert torch.equal(found.probability, own.segment(image, keys=["a"]).probability)
    assert found.unrefined is None


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([DenseCRFRefinement(), MultiSampleEnsemble()], "Put MultiSampleEnsemble before DenseCRFRefinement"),
        (
            [SamplePanels(), MultiSampleEnsemble(MajorityFusion())],
            "Put MultiSampleEnsemble before SamplePanels",
        ),
    ],
)
def test_a_wrong_order_is_refused(callbacks, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, *callbacks)


def logged(folder, model):
    callback = GeneralizedEnergyDistance()
    trainer = tiny_trainer(folder, callbacks=[callback])
    data = tiny_data(num_val=6)
    [found] = trainer.validate(model, data, verbose=False)
    return found, data


def test_energy_distance_while_training(tmp_path):
    """Against the function, image by image; unbiased, so that two samples will do."""
    torch.manual_seed(0)
    model = tiny_model(val_num_samples=3)
    found, data = logged(tmp_path, model)
    distances, spreads = [], []
    for batch in data.val_dataloader():
        batch = data.on_after_batch_transfer(batch, 0)
        samples = model.segment(batch["image"], 3, model.val_num_steps, keys=batch["case"]).binary_samples
        for drawn, raters in zip(samples, batch["raters"].bool(), strict=True):
            distances.append(generalized_energy_distance(drawn[:, 0], raters[:, 0]).unbiased)
            spreads.append(diversity(drawn[:, 0]))
    assert found["val/ged"] == pytest.approx(float(torch.stack(distances).mean()), abs=1e-5)
    assert found["val/diversity"] == pytest.approx(float(torch.stack(spreads).mean()), abs=1e-5)


def test_one_sample_has_no_energy_distance(tmp_path, recwarn):
    found, _ = logged(tmp_path, tiny_model(val_num_samples=1))
    assert not [warning for warning in recwarn if "before the ``update``" in str(warning.message)]
    assert "val/ged" not in found
    assert "val/dice" in found


@pytest.mark.pictures
def test_panels_show_the_slices_of_volumes_that_have_something_to_show(tmp_path, monkeypatch):
    """Not the first ones, which are empty: of each case the largest, then others that lie apart."""
    drawn = []
    monkeypatch.setattr(panels, "draw_panel", lambda rows, *_: drawn.append([row[0] for row in rows]) or Figure())
    trainer = SimpleNamespace(is_global_zero=True, log_dir=str(tmp_path), default_root_dir=str(tmp_path))

    def shown(volumes, **options):
        callback = SamplePanels(**options)
        callback.on_test_epoch_start(trainer, None)
        for case, areas in volumes.items():
            for index, area in enumerate(areas):
                mask = torch.zeros(1, 1, 8, 8)
                mask.view(-1)[:area] = 1
                found = Segmentation(torch.zeros(1, 1, 1, 8, 8), mask * 0, mask * 0, mask > 1)
                batch = {"case": [case], "id": [f"{case}{index}"], "index": [index], "image": mask, "mask": mask}
                callback.on_test_batch_end(trainer, None, {"segmentation": found}, batch, index)
        callback.on_test_epoch_end(trainer, SimpleNamespace(regions=["lesion"]))
        return drawn[-1]

    hill = [0] * 10 + list(range(0, 40, 2)) + list(range(40, 0, -2)) + [0] * 10
    assert shown({"a": hill}, num_images=1) == ["a30"]
    assert shown({"a": hill, "b": hill[::-1]}, num_images=2) == ["a30", "b29"]
    rows = shown({"a": hill}, num_images=4)
    assert len(rows) == 4
    assert "a30" in rows
    assert all(hill[int(row[1:])] > 10 for row in rows)
    assert rows == sorted(rows)
    assert shown({name: [7] for name in "abcd"}, num_images=3) == ["a0", "b0", "c0"]


class OfContrast(BrightSegmenter):
    """The lesion is where the second channel is bright."""

    def draw_samples(self, image, generators, num_steps):
        return super().draw_samples(image[:, 1:], generators, num_steps)


def test_a_test_drops_small_parts_of_volumes(tmp_path):
    """Parts are those of the whole volume, which slices cut into smaller ones."""
    write_brats2015(tmp_path / "in", ["brats_2013_pat0003_1", "brats_2013_pat0004_1"])
    found = {}
    for size in (1, 8, 10**6):
        data = data_module("brats2015", tmp_path / "in", image_size=32)
        model = dark_segmenter(("flair", "t1ce"), data.info.regions, OfContrast)
        metrics, dropping = CaseMetrics(), SmallestParts({"whole_tumour": size})
        trainer = tiny_trainer(tmp_path / str(size), callbacks=[metrics, dropping])
        trainer.test(model, data, verbose=False)
        assert model.smallest is None
        assert metrics.summary["policy"]["smallest"] == {"whole_tumour": size}
        found[size] = metrics.rows
    plain, kept, dropped = (rows[0] for rows in found.values())
    assert plain.sensitivity == kept.sensitivity > 0  # a part that slices cut into pieces stays
    assert plain.uncertainty == pytest.approx(kept.uncertainty)
    assert dropped.uncertainty > plain.uncertainty
    assert dropped.brier == plain.brier
    assert dropped.hd95 > plain.hd95
    assert any(row.precision > 0 for row in found[8])
    assert not any(row.precision > 0 or row.sensitivity > 0 for row in found[10**6])  # inner regions go, too


def test_small_parts_of_an_unknown_region_are_refused(tmp_path):
    with pytest.raises(DataError, match="--smallest core=5"):
        scored(tmp_path, SmallestParts({"core": 5}))
