import pytest
import torch
from helpers.small_networks import small

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.models import (
    Condition,
    Denoiser,
    DiffSegSegmenter,
    MedSegDiffSegmenter,
    ResidualUNet,
    SSNSegmenter,
    SupervisedSegmenter,
)
from diffmedseg.models.low_rank_normal import LowRankNormal
from diffmedseg.models.tiling import blend, windows

IMAGES = torch.rand(2, 3, 32, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Pixels(Denoiser):
    """Looks at single pixels, of mask and image alike."""

    seen: list

    def __init__(self):
        super().__init__(3, 1)
        self.seen, self.weight = [], torch.nn.Parameter(torch.ones(()))

    def encode(self, image):
        self.seen.append(tuple(image.shape[-2:]))
        mean = self.weight * image[:, :1]
        normal = LowRankNormal(mean, self.weight * image[:, :, None], self.weight * image[:, 1:2].abs())
        return Condition((image,), mean, normal)

    def forward(self, x_t, t, condition, label=None):
        self.seen.append(tuple(x_t.shape[-2:]))
        if label is not None:  # DiffSeg's have no condition
            return self.weight * x_t * (0.5 + label.reshape(-1, 1, 1, 1))
        image, prior = (
            one.repeat_interleave(len(x_t) // len(one), 0) for one in (condition.features[0], condition.prior)
        )
        return self.weight * (x_t + image[:, :1] + prior)


def segmenters():
    linear = NoiseProcess(schedule="linear", input_scale=1.0)
    settings = {"image_size": (32, 48), "num_samples": 2, "num_steps": 2}
    return {
        "medsegdiff": MedSegDiffSegmenter(Pixels(), **settings),
        "supervised": SupervisedSegmenter(Pixels(), **settings),
        "ssn": SSNSegmenter(Pixels(), **settings),
        "diffseg": DiffSegSegmenter(Pixels(), linear, **settings),
    }


@pytest.mark.parametrize("name", segmenters())
def test_for_a_network_that_looks_at_pixels_windows_change_nothing(name):
    model = segmenters()[name]
    whole = model.segment(IMAGES, keys=["a", "b"]).samples
    for window in (8, 16, 17, 40, 64):
        model.tiling.crop.fill_(window)
        model.denoiser.seen.clear()
        torch.testing.assert_close(model.segment(IMAGES, keys=["a", "b"]).samples, whole, atol=1e-4, rtol=0)
        assert set(model.denoiser.seen) == {(min(window, 32), min(window, 48))}


@pytest.mark.parametrize("name", segmenters())
def test_training_on_patches_is_remembered(name, tmp_path):
    model = segmenters()[name]
    model.log = lambda *args, **options: None
    batch = {"image": torch.rand(2, 3, 16, 16), "mask": torch.ones(2, 1, 16, 16), "draw": [0, 1], "id": ["a", "b"]}
    model.training_step(batch | {"label": torch.tensor([0, 1])}, 0)
    assert int(model.tiling.crop) == 16
    again = segmenters()[name]
    again.load_state_dict(model.state_dict())
    assert int(again.tiling.crop) == 16
    old = {key: value for key, value in model.state_dict().items() if key != "tiling.crop"}
    again.load_state_dict(old)  # of a checkpoint from before there were crops
    assert int(again.tiling.crop) == 0
    whole = {"image": IMAGES.clone(), "mask": torch.ones(2, 1, 32, 48), "draw": [0, 1], "id": ["a", "b"]}
    model.training_step(whole | {"label": torch.tensor([0, 1])}, 0)
    assert int(model.tiling.crop) == 0


def test_windows_cover_everything_and_overlap():
    for size, window in (((32, 48), 16), ((33, 17), 16), ((100, 64), 64), ((20, 20), 32), ((64, 64), 0)):
        covered = torch.zeros(size)
        for part in windows(size, window):
            covered[part] += 1
        assert covered.min() >= 1
        inner = covered[window // 2 : -window // 2, window // 2 : -window // 2] if window else covered
        assert window == 0 or min(size) < 2 * window or inner.min() >= 4


def test_blending_constants_gives_constants():
    parts = windows((40, 56), 16)
    results = [torch.full((1, 2, 16, 16), 3.0) for _ in parts]
    torch.testing.assert_close(blend(parts, results, (40, 56)), torch.full((1, 2, 40, 56), 3.0))


def test_a_real_network_works_in_windows():
    model = SupervisedSegmenter(small(ResidualUNet), image_size=(48, 64)).eval()
    model.tiling.crop.fill_(32)
    assert model.segment(torch.zeros(1, 3, 48, 64)).mask.shape == (1, 1, 48, 64)
