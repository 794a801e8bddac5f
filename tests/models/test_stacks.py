"""Networks of volumes: their blocks, and volumes that are segmented in windows of slices."""

from functools import partial

import pytest
import torch
from helpers.small_networks import small

from diffmedseg.diffusion import NoiseProcess
from diffmedseg.errors import ExportError
from diffmedseg.export import export_onnx
from diffmedseg.models import (
    Condition,
    Denoiser,
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    ResidualUNet,
    SupervisedSegmenter,
)
from diffmedseg.models.finetuning import MisfitError, initialise
from diffmedseg.models.layers import patches_to_channels
from diffmedseg.models.stacks import as_volume, cut_slices, join_batch, join_slices
from diffmedseg.models.tiling import blend, windows
from diffmedseg.reading.slice_input import SliceInput

LITE = partial(MedSegDiffLite, patches="interpolated", spatial_dims=3)
NETWORKS = {"lite": LITE, "supervised": partial(ResidualUNet, spatial_dims=3)}
SEGMENTERS = {"lite": MedSegDiffSegmenter, "supervised": SupervisedSegmenter}
SLICES = torch.rand(20, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1


class Voxels(Denoiser):
    """Looks at single voxels, of mask and image alike."""

    spatial_dims = 3
    has_prior = True

    def __init__(self):
        super().__init__(3, 1)
        self.weight = torch.nn.Parameter(torch.ones(()))
        self.seen = []

    def encode(self, image):
        self.seen.append(tuple(image.shape[2:]))
        return Condition((image,), self.weight * image[:, :1])

    def forward(self, x_t, t, condition, label=None):
        image, prior = (
            one.repeat_interleave(len(x_t) // len(one), 0) for one in (condition.features[0], condition.prior)
        )
        return self.weight * (x_t + image[:, 1:2] + prior)


def build(name="lite", network=None, depth=8, **options):
    settings = {"image_size": (16, 24), "num_samples": 3, "num_steps": 2, "slice_input": SliceInput(depth=depth)}
    if name == "voxels":
        return MedSegDiffSegmenter(Voxels(), NoiseProcess(schedule="linear", input_scale=1.0), **settings | options)
    return SEGMENTERS[name](network or small(NETWORKS[name]), **settings | options).eval()


def test_the_channels_of_a_position_are_its_patch():
    volume = torch.arange(2 * 3 * 4 * 8 * 12).reshape(2, 3, 4, 8, 12)
    found = patches_to_channels(volume, 4)
    assert found.shape == (2, 3 * 64, 1, 2, 3)
    for row, column in ((0, 0), (1, 2)):
        patch = volume[:, :, :, 4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
        assert torch.equal(found[:, :, 0, row, column], patch.reshape(2, -1))


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_keep_the_shape_of_volumes_and_learn_everywhere(name):
    network = small(NETWORKS[name], 2, 3).train()
    image, x_t, t = torch.randn(2, 2, 8, 16, 24), torch.randn(4, 3, 8, 16, 24), torch.tensor([3, 90, 500, 900])
    condition = network.encode(image)
    out = network(x_t, t, condition)
    assert condition.prior.shape == (2, 3, 8, 16, 24)
    assert out.shape[1:] == x_t.shape[1:]
    (out.square().mean() + condition.prior.square().mean()).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    with pytest.raises(ValueError, match=r"The image is 4 x 16 x 24; .* resize or pad it to 8 x 16 x 24"):
        network.encode(image[:, :, :4])
    with pytest.raises(ValueError, match="has 2 dimensions; this network was built for 3"):
        network.encode(image[:, :, 0])


def test_neighbouring_slices_matter():
    network = small(NETWORKS["supervised"])
    image = torch.randn(1, 3, 8, 16, 16)
    changed = image.clone()
    changed[:, :, 6] += 1
    before, after = (network.encode(one).prior for one in (image, changed))
    assert (before - after)[:, :, 5].abs().max() > 1e-4


@pytest.mark.parametrize("setting", [{"patches": "apart"}, {"ff_parser": True}, {"presence": True}])
def test_what_has_no_form_in_three_dimensions_is_refused(setting):
    with pytest.raises(ValueError, match="A network of volumes interpolates its patches and has no further parts"):
        LITE(3, 1, **setting)
    with pytest.raises(ValueError, match="The encoder resnet18 takes images"):
        LITE(3, 1, encoder="resnet18")


def test_slices_become_volumes_and_come_back():
    volumes = join_slices(SLICES, 5)
    assert volumes.shape == (4, 3, 5, 16, 24)
    assert torch.equal(volumes[2, :, 4], SLICES[14])
    assert torch.equal(cut_slices(volumes[1:2], 5), SLICES[5:10])
    short = as_volume(SLICES[:3], 8)
    assert short.shape == (1, 3, 8, 16, 24)
    assert all(torch.equal(short[0, :, number], SLICES[min(number, 2)]) for number in range(8))
    assert torch.equal(cut_slices(as_volume(SLICES, 8), 20), SLICES)


def test_training_batches_are_stacks_of_one_case():
    mask = (SLICES[:, :2] > 0).float()
    batch = {
        "image": SLICES, "mask": mask, "raters": mask[:, None], "draw": [number // 5 for number in range(20)],
        "case": ["a"] * 10 + ["b"] * 10, "id": list(map(str, range(20))),
    }  # fmt: skip
    joined = join_batch(batch, 5)
    assert (joined["draw"], joined["case"], joined["id"]) == ([0, 1, 2, 3], [*"aabb"], ["0", "5", "10", "15"])
    assert torch.equal(joined["mask"][3, :, 1], mask[16])
    assert torch.equal(joined["raters"][3, 0, :, 1], mask[16])
    for depth in (3, 20):
        with pytest.raises(ValueError, match=f"20 slices does not consist of stacks of {depth} slices of one case"):
            join_batch(batch, depth)


def test_windows_of_volumes_cover_everything_and_blend_to_what_they_agree_on():
    size = (21, 16, 24)
    parts = windows(size, (8, 0, 16))
    covered, truth = torch.zeros(size), torch.randn(1, 2, *size)
    for part in parts:
        covered[part] += 1
        assert covered[part].shape == (8, 16, 16)
    assert covered.min() >= 1
    torch.testing.assert_close(blend(parts, [truth[part] for part in parts], size), truth)


def test_for_a_network_that_looks_at_voxels_windows_change_nothing():
    """The noise is that of the whole volume, whatever the windows that see it."""
    whole = build("voxels", depth=20).segment(SLICES).samples
    for depth, crop in ((8, 0), (13, 0), (8, 16)):
        model = build("voxels", depth=depth)
        model.tiling.crop.fill_(crop)
        torch.testing.assert_close(model.segment(SLICES).samples, whole, atol=1e-4, rtol=0)
        assert set(model.denoiser.seen) == {(depth, crop or 16, crop or 24)}


@pytest.mark.parametrize("name", SEGMENTERS)
def test_a_volume_that_fits_in_a_window_is_one_pass_of_the_network(name):
    model = build(name, depth=8)
    found = model.segment(SLICES[:8], keys=["a"] * 8)
    prior = model.denoiser.encode(as_volume(SLICES[:8], 8)).prior.sigmoid()
    expected = cut_slices(prior, 8)
    torch.testing.assert_close(found.samples[:, 0] if name == "supervised" else found.prior, expected)
    wider = build(name, model.denoiser, depth=16)
    assert not torch.equal(wider.segment(SLICES[:16]).probability[:8], found.probability)


@pytest.mark.parametrize("name", SEGMENTERS)
def test_volumes_do_not_depend_on_their_batch(name):
    model, keys = build(name), ["a"] * 11 + ["b"] * 9
    together = model.segment(SLICES, keys=keys).samples
    assert together.shape == (20, 3, 1, 16, 24)
    torch.testing.assert_close(model.segment(SLICES[:11], keys=keys[:11]).samples, together[:11])
    torch.testing.assert_close(model.segment(SLICES[11:], keys=keys[11:]).samples, together[11:])
    few = model.segment(SLICES[:11], 1, keys=keys[:11])
    torch.testing.assert_close(few.samples, together[:11, :1])
    model.pixels_per_pass = 1  # sample after sample
    torch.testing.assert_close(model.segment(SLICES, keys=keys).samples, together, atol=1e-5, rtol=0)


def test_images_without_keys_are_one_volume():
    model = build()
    named = model.segment(SLICES, spacing=(2, 1, 1))
    assert torch.equal(model.segment(SLICES).samples, named.samples)
    assert set(named.volume_ml()) == {"lesion"}


def test_flips_give_a_volume_back():
    model = build("voxels")
    plain, flipped = (model.segment(SLICES, 4, tta=tta) for tta in ("none", "flips"))
    assert torch.equal(plain.samples[:, 0], flipped.samples[:, 0])
    torch.testing.assert_close(plain.prior, flipped.prior)


def test_features_are_those_of_the_volume():
    model = build()
    features = model.features(SLICES)
    assert len(features) == 20
    assert torch.equal(features[0], features[19])
    assert not torch.equal(model.features(SLICES[:10])[0], features[0])


def test_networks_and_data_have_to_agree():
    with pytest.raises(ValueError, match=r"MedSegDiffV1 takes single slices, and the data gives volumes of 8 slices"):
        MedSegDiffSegmenter(small(MedSegDiffV1), slice_input=SliceInput(depth=8))
    with pytest.raises(ValueError, match=r"MedSegDiffLite was built for volumes, and the data gives single slices"):
        MedSegDiffSegmenter(small(LITE))
    with pytest.raises(ValueError, match="slice_correlation is 3, which is for networks of slices"):
        build(slice_correlation=3.0)
    with pytest.raises(ValueError, match="depth is 12; MedSegDiffLite takes multiples of 8"):
        build(depth=12)
    with pytest.raises(ValueError, match="sees 8 slices at once: set context to 0, not 1"):
        SliceInput(1, depth=8)
    with pytest.raises(ValueError, match="depth is -1"):
        SliceInput(depth=-1)


def test_a_supervised_baseline_becomes_the_condition_network():
    model = build("lite", LITE(3, 1))
    found = initialise(model, build("supervised"))
    assert found.shares["taken"] > 0.8
    single = SupervisedSegmenter(small(ResidualUNet), image_size=(16, 24))
    with pytest.raises(MisfitError, match="of which only"):
        initialise(model, single)


def test_volumes_have_no_graph(tmp_path):
    with pytest.raises(ExportError, match="a network of volumes, and ONNX graphs take images"):
        export_onnx(build(), tmp_path / "x.onnx")


def test_the_loss_falls():
    """On one stack whose bright ball is the mask, with noise of its own at each step."""
    z, y, x = torch.meshgrid(*(torch.arange(side) for side in (8, 16, 16)), indexing="ij")
    mask = (((z - 4) / 3) ** 2 + ((y - 7) / 5) ** 2 + ((x - 9) / 5) ** 2 < 1).float()[:, None]
    image = (mask - 0.5 + 0.2 * torch.randn(8, 1, 16, 16, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    torch.manual_seed(0)
    model = build("lite", LITE(1, 1), image_size=(16, 16))
    model.log = lambda *args, **options: None
    optimizer, losses = torch.optim.Adam(model.parameters(), 2e-3), []
    for step in range(20):
        batch = {"image": image, "mask": mask, "draw": [step] * 8, "id": [*"abcdefgh"], "case": ["case"] * 8}
        loss = model.train().training_step(batch, step)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])
    found = model.segment(image).mask
    assert (found == (mask > 0)).float().mean() > 0.9
