import csv

import pytest
import torch
from tiny_run import tiny_data, tiny_model, tiny_trainer

from diffmedseg.callbacks import CaseMetrics, DenseCRFRefinement, MultiSampleEnsemble, SamplePanels
from diffmedseg.crf import CRFSettings, DenseCRF
from diffmedseg.fusion import MajorityFusion, STAPLEFusion


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


def test_a_refinement_is_scored_before_and_after(tmp_path):
    pytest.importorskip("pydensecrf")
    model = tiny_model(num_samples=2)
    plain = scored(tmp_path / "plain", model=model)
    refined = scored(tmp_path / "crf", DenseCRFRefinement(DenseCRF(CRFSettings(bilateral_xy=5))), model=model)
    assert [row["dice_unrefined"] for row in refined] == [row["dice"] for row in plain]
    assert [row["brier"] for row in refined] != [row["brier"] for row in plain]
    assert {row["dice_unrefined"] for row in plain} == {""}


@pytest.mark.parametrize(
    ("callbacks", "message"),
    [
        ([DenseCRFRefinement(), MultiSampleEnsemble()], "MultiSampleEnsemble has to come before DenseCRFRefinement"),
        (
            [SamplePanels(), MultiSampleEnsemble(MajorityFusion())],
            "MultiSampleEnsemble has to come before SamplePanels",
        ),
    ],
)
def test_a_wrong_order_is_refused(callbacks, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        scored(tmp_path, *callbacks)
