from unittest.mock import Mock, patch

import pytest
import torch
from helpers.small_networks import small
from lightning import Trainer

from diffmedseg.models import ResidualUNet, SupervisedSegmenter
from diffmedseg.prediction.run import fingerprint


def segmenter():
    return SupervisedSegmenter(small(ResidualUNet), image_size=(32, 32)).eval()


def read_weights(model):
    """Take a fingerprint, and count the tensors that were read for it."""
    read = Mock(side_effect=torch.Tensor.numpy)
    with patch.object(torch.Tensor, "numpy", lambda value: read(value)):
        return fingerprint(model), read.call_count


def scale(model):
    with torch.no_grad():
        next(model.parameters()).mul_(2)


CHANGES = {
    "in place": scale,
    "loaded": lambda model: model.load_state_dict({name: value + 1 for name, value in model.state_dict().items()}),
    "precision": lambda model: model.half(),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_weights_are_digested_once_until_they_change(change):
    model = segmenter()
    first = read_weights(model)
    assert first == (fingerprint(segmenter()), len(model.state_dict()))
    assert read_weights(model) == (first[0], 0)
    change(model)
    second = read_weights(model)
    assert second[1] == first[1]
    assert second[0] != first[0]


def test_a_rule_that_changes_changes_the_fingerprint():
    model = segmenter()
    before = fingerprint(model)
    model.threshold = 0.25
    assert fingerprint(model) != before


def test_models_of_a_trainer_are_digested_each_time():
    """Its callbacks average weights through .data, which PyTorch does not count."""
    model = segmenter()
    before = fingerprint(model)
    model.trainer = Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    next(model.parameters()).data.mul_(2)
    assert fingerprint(model) != before
