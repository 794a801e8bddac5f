"""What OnnxSegmenter computes in NumPy equals what PyTorch computes."""

import json
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from diffmedseg.configurable import to_config
from diffmedseg.errors import ExportError
from diffmedseg.export import arrays
from diffmedseg.export.contract import Contract
from diffmedseg.export.noise import KeyedNoise, draw_noise
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.metrics.calibration import FINE_BINS
from diffmedseg.models.batches import to_grid
from diffmedseg.noise_input import NoiseInput
from diffmedseg.postprocessing.calibration import IsotonicCalibration, TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.reading.model_range import to_model_range
from diffmedseg.segmentation import resize_soft

GENERATOR = np.random.default_rng(0)
CONTRACT = Contract(
    "an entry", "A network", "sampler", ("red",), ("lesion",), False, (64, 32), "x / 127.5 - 1",
    (NoiseInput("noise", "normal", (1, 64, 32)),), 8, 4, 0, 0.1 + 0.2, {"class_path": "x", "init_args": {}},
    {"inner": [None], "outer": [0.1]},
)  # fmt: skip


def test_the_package_does_not_import_torch():
    script = (
        "import sys, diffmedseg.export, diffmedseg.export.segmenter\n"
        "import diffmedseg.export as e; e.OnnxSegmenter, e.Contract\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout.strip() == "False", done.stderr


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("normal"), st.integers(1, 70)),
            st.tuples(st.just("uniform"), st.integers(1, 9)),
        ),
        min_size=1,
        max_size=6,
    ),
    st.integers(0, 2**40),
)
@settings(max_examples=60)
def test_noise_is_that_of_pytorch(parts, seed):
    """Few and many numbers, also where one of a pair is left over, in any order, from one stream."""
    generator, stream = keyed_generator(seed, "case", 3), KeyedNoise(seed, "case", 3)
    for kind, number in parts:
        draw = torch.randn if kind == "normal" else torch.rand
        expected = draw(number, generator=generator).numpy()
        np.testing.assert_allclose(stream.draw(NoiseInput("x", kind, (number,))), expected, atol=1e-5, rtol=1e-5)


def test_noise_of_samples_depends_on_seed_key_and_number_alone():
    inputs = (NoiseInput("few", "uniform", (2,)), NoiseInput("noise", "normal", (1, 5, 7)))
    many = draw_noise(inputs, 3, ["a", "b"], range(4))
    assert {name: values.shape for name, values in many.items()} == {"few": (2, 4, 2), "noise": (2, 4, 1, 5, 7)}
    for name, values in draw_noise(inputs, 3, ["b"], range(1, 3)).items():
        np.testing.assert_array_equal(values[0], many[name][1, 1:3])


@pytest.mark.parametrize("before", [(64, 64), (65, 33), (1, 5), (300, 1999)])
@pytest.mark.parametrize("after", [(64, 64), (90, 61), (7, 640)])
def test_maps_are_resized_as_pytorch_does(before, after):
    maps = GENERATOR.random((2, 3, *before), np.float32)
    expected = F.interpolate(torch.from_numpy(maps), after, mode="bilinear", antialias=True)
    np.testing.assert_allclose(arrays.resize(maps, after), expected.numpy(), atol=2e-6)
    np.testing.assert_allclose(arrays.resize_soft(maps, after), resize_soft(torch.from_numpy(maps), after), atol=2e-6)
    image = maps * 2 - 1
    np.testing.assert_allclose(arrays.to_grid(image, after), to_grid(torch.from_numpy(image), after), atol=4e-6)


@pytest.mark.parametrize(
    "image",
    [
        np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2),
        np.arange(192, dtype=np.uint8).reshape(3, 8, 8),
        np.arange(3 * 3 * 4, dtype=np.uint8).reshape(3, 4, 3),
        GENERATOR.random((2, 3, 5, 6)) * 2 - 1,
    ],
    ids=["colour last", "colour first", "either", "float64"],
)
def test_images_are_read_as_the_model_reads_them(image):
    np.testing.assert_array_equal(arrays.to_model_range(image, 3), to_model_range(image, 3).numpy())


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((4, 4), np.uint8),
        np.zeros((0, 4, 3), np.uint8),
        np.full((3, 4, 4), np.nan, np.float32),
        np.full((3, 4, 4), 255.0),
    ],
    ids=["grey", "empty", "NaN", "not normalised"],
)
def test_images_are_refused_as_the_model_refuses_them(image):
    with pytest.raises(ValueError) as refused:  # noqa: PT011  both messages are compared
        to_model_range(image, 3)
    with pytest.raises(ValueError, match=re.escape(str(refused.value).split(" (")[0].split("; ")[0])):
        arrays.to_model_range(image, 3)


def test_other_objects_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="dtype is int32; pass uint8"):
        arrays.to_model_range(np.zeros((4, 4, 3), np.int32), 3)
    with pytest.raises(ValueError, match="list is no array: pass a NumPy array"):
        arrays.to_model_range([[0.0]], 1)


@pytest.mark.parametrize(
    "calibration", [TemperatureScaling(1.7, -0.3), IsotonicCalibration([0, 0.2, 0.5, 1], [0, 0.1, 0.8, 1])]
)
def test_calibrations(calibration):
    assert to_config(calibration)["class_path"] in arrays.CALIBRATIONS
    probability = np.linspace(0, 1, 1001, dtype=np.float32)
    expected = calibration(torch.from_numpy(probability)).numpy()
    np.testing.assert_allclose(arrays.calibrate(probability, to_config(calibration)), expected, atol=1e-6)
    assert arrays.calibrate(probability, None) is probability


def test_contours():
    probability = GENERATOR.random((2, 2, 20, 20), np.float32)
    probability[0, 0, 0] = np.arange(20) / FINE_BINS  # on the edges of bins
    conformal = Conformal([0.7, float("inf")], [0.2, 0.011], [1.0, 1.0], 0.95, 0.9, 30, 8, 4)
    inner, outer = conformal.contours(torch.from_numpy(probability))
    np.testing.assert_array_equal(arrays.contour(probability, [0.7, None]), inner)
    np.testing.assert_array_equal(arrays.contour(probability, [0.2, 0.011]), outer)


def test_contracts_come_back_whole():
    assert Contract.from_json(CONTRACT.to_json()) == CONTRACT


@pytest.mark.parametrize(
    ("change", "message"),
    [({"format": 2}, "has format 2; this version of diffmedseg reads format 1"), ({"noise": 3}, "metadata is damaged")],
)
def test_other_contracts_are_refused(change, message):
    with pytest.raises(ExportError, match=message):
        Contract.from_json(json.dumps(json.loads(CONTRACT.to_json()) | change))
