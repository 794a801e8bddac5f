import pytest
import torch
from helpers.recorder import Recorder
from helpers.small_networks import small

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.keyed_random import keyed_generator
from diffmedseg.models import ClassConditionalUNet, Condition, DiffSegSegmenter, TwoTowerUNet
from diffmedseg.models.diffseg.difference import (
    NoisePredictionDifference,
    PartialDenoisingDifference,
    ReleasedDifference,
)


def batch(rows=400, **more):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(rows, 3, 8, 8, generator=generator) * 2 - 1
    return {"image": image, "label": torch.arange(rows) % 2, "draw": list(range(rows))} | more


def test_labels_are_hidden_as_often_as_is_said():
    network = Recorder()
    data = batch(4000)
    DiffSegSegmenter(network, image_size=(8, 8), label_dropout=0.25).training_loss(data)
    _, t, label = network.calls[0]
    hidden = label == 2
    assert 0.23 < hidden.float().mean() < 0.27
    assert torch.equal(label[~hidden], data["label"][~hidden])
    assert 0.22 < hidden[data["label"] == 1].float().mean() < 0.28
    assert t.min() < 50
    assert t.max() > 950


def test_training_noise_is_keyed_by_the_draw():
    network, data = Recorder(), batch(8)
    model = DiffSegSegmenter(network, image_size=(8, 8))
    whole = model.training_loss(data)
    torch.manual_seed(5)
    parts = [model.training_loss({name: value[i : i + 1] for name, value in data.items()}) for i in range(8)]
    torch.testing.assert_close(torch.stack(parts).mean(), whole)


def test_levels_stay_in_their_range():
    network = Recorder()
    DiffSegSegmenter(network, image_size=(8, 8), noise_range=(199, 400)).training_loss(batch())
    assert network.calls[0][1].min() >= 199
    assert network.calls[0][1].max() < 400


def test_pairs_turn_half_of_the_images_healthy():
    """A network that answers with the right one of the two images has no loss; labels alone know no such target."""
    healthy = torch.full((400, 3, 8, 8), 0.25)
    data = batch(healthy=healthy, label=torch.ones(400, dtype=torch.int64))

    class Perfect(Recorder):
        def forward(self, x_t, t, condition, label=None):
            self.calls.append((x_t, t, label))
            x_0 = torch.where(label.reshape(-1, 1, 1, 1) == 0, healthy, data["image"])
            return 2 * torch.atanh(x_0.clamp(-0.999999, 0.999999)) + 0 * self.weight

    network = Perfect()
    model = DiffSegSegmenter(network, image_size=(8, 8), supervision="pairs", label_dropout=0.0)
    assert model.needs == ("label", "healthy")
    assert model.training_loss(data) < 1e-6
    assert 0.4 < (network.calls[0][2] == 0).float().mean() < 0.6
    alone = DiffSegSegmenter(network, image_size=(8, 8), label_dropout=0.0)
    assert alone.needs == ("label",)
    alone.training_loss(data)
    assert (network.calls[1][2] == 1).all()


def test_the_conditioned_network_uses_its_label():
    network = small(ClassConditionalUNet)
    x, t = torch.randn(2, 3, 16, 16), torch.tensor([3, 500])
    healthy, diseased, free = (network(x, t, Condition(()), torch.full((2,), label)) for label in range(3))
    assert healthy.shape == x.shape
    assert not torch.allclose(healthy, diseased)
    assert torch.equal(free, network(x, t, Condition(())))


def test_two_towers_share_nothing():
    network = small(TwoTowerUNet)
    x, t, label = torch.randn(4, 3, 16, 16), torch.tensor([3, 500, 3, 500]), torch.tensor([0, 1, 1, 0])
    together = network(x, t, Condition(()), label)
    for value in (0, 1):
        rows = label == value
        torch.testing.assert_close(
            network(x[rows], t[rows], Condition(()), label[rows]), together[rows], atol=1e-5, rtol=1e-4
        )
    network(x[:1], t[:1], Condition(()), label[:1]).sum().backward()
    healthy, diseased = ([p.grad for p in tower.parameters()] for tower in network.towers)
    assert any(g.any() for g in healthy)
    assert all(g is not None and not g.any() for g in diseased)  # under DDP a missing gradient would stall
    with pytest.raises(ValueError, match="Set label_dropout to 0"):
        network(x, t, Condition(()))
    with pytest.raises(ValueError, match=r"TwoTowerUNet cannot learn from images without a label\. Set label_dropout"):
        DiffSegSegmenter(network, image_size=(16, 16))


def test_samples_of_diffseg_differ_and_depend_on_their_key_alone():
    model = DiffSegSegmenter(small(ClassConditionalUNet), image_size=(16, 16), num_samples=3, num_steps=1).eval()
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    generators = [[keyed_generator(key, s) for s in range(3)] for key in "ab"]
    maps = model.difference_maps(image, generators, 1)
    assert not torch.allclose(maps[:, 0], maps[:, 1])
    model.pixels_per_pass = 256  # one row at a time
    generators = [[keyed_generator(key, s) for s in range(3)] for key in "ab"]
    torch.testing.assert_close(model.difference_maps(image, generators, 1), maps, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("difference", "passes"),
    [
        (NoisePredictionDifference(), [48]),
        (PartialDenoisingDifference(400, 2.0), [24] * 2),
        (ReleasedDifference(), [12]),
    ],
)
def test_levels_noise_and_labels_of_an_image_are_evaluated_together(difference, passes):
    """In one pass where the memory budget allows; a chain in one for each step."""

    class Labelled(Recorder):
        def forward(self, x_t, t, condition, label=None):
            super().forward(x_t, t, condition, label)
            return x_t * (1 + label.reshape(-1, 1, 1, 1)) + t.reshape(-1, 1, 1, 1) / 1000

    steps = 4 if len(passes) == 1 else 2
    model = DiffSegSegmenter(Labelled(), image_size=(8, 8), num_samples=6, num_steps=steps, difference=difference)
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    drawn = []
    for budget, expected in ((2**20, passes), (10 * 64, None)):
        model.pixels_per_pass = budget
        model.denoiser.calls.clear()
        drawn.append(model.difference_maps(image, [[keyed_generator("a", s) for s in range(6)]], steps))
        rows = [len(x_t) for x_t, _, _ in model.denoiser.calls]
        assert rows == expected if expected else max(rows) <= 10
    torch.testing.assert_close(*drawn)


def test_the_process_may_predict_noise():
    process = NoiseProcess(schedule="linear", input_scale=1.0, prediction="epsilon")
    loss = DiffSegSegmenter(Recorder(), process, image_size=(8, 8)).training_loss(batch())
    assert loss.item() == pytest.approx(1, abs=0.02)  # the variance of the noise
