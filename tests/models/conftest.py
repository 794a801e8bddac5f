import pytest
from helpers.small_networks import small

from diffmedseg.models import (
    ClassConditionalUNet,
    DiffSegSegmenter,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    ResidualUNet,
    SSNSegmenter,
    StochasticUNet,
    SupervisedSegmenter,
)


@pytest.fixture
def v1():
    return small(MedSegDiffV1)


@pytest.fixture
def segmenter(v1):
    return MedSegDiffSegmenter(v1, image_size=(32, 32), num_samples=4, num_steps=3).eval()


@pytest.fixture
def control():
    return SupervisedSegmenter(small(ResidualUNet), image_size=(32, 32)).eval()


@pytest.fixture
def diffseg():
    return DiffSegSegmenter(small(ClassConditionalUNet), image_size=(32, 32), num_samples=4, num_steps=2).eval()


@pytest.fixture
def ssn():
    return SSNSegmenter(small(StochasticUNet), image_size=(32, 32), num_samples=4).eval()
