"""torch.export and torch.jit.trace take denoisers, with any number of images and samples."""

from functools import partial

import pytest
import torch
from small_networks import LITE_DESIGNS, V1_DESIGNS, concrete_denoisers, lite_designs, small, v1_designs
from torch.export import Dim, ShapesCollection
from torch.utils import _pytree as pytree

from diffmedseg.models import Condition, MedSegDiffLite, MedSegDiffV1, StochasticUNet, TwoTowerUNet

#: Which rows TwoTowerUNet gives to which network depends on the values of labels: that is no graph.
NETWORKS = [cls for cls in concrete_denoisers() if cls is not TwoTowerUNet]


def together():
    """Every design, as few networks: the settings of MedSegDiff-Lite are all of one network."""
    settings = {key: value for own in LITE_DESIGNS.values() for key, value in own.items()}
    yield pytest.param(partial(MedSegDiffLite, **settings), id=f"lite, {', '.join(LITE_DESIGNS)}")
    settings = {key: value for own in V1_DESIGNS.values() for key, value in own.items()}
    yield pytest.param(partial(MedSegDiffV1, **settings), id=f"V1, {', '.join(V1_DESIGNS)}")


def inputs_of(network, images, samples):
    generator = torch.Generator().manual_seed(images)
    image = torch.rand(images, network.image_channels, 32, 32, generator=generator) * 2 - 1
    x_t = torch.randn(images * samples, network.x_channels, 32, 32, generator=generator)
    return image, x_t, torch.randint(1000, (images * samples,), generator=generator)


def exported(module, *inputs):
    shapes = ShapesCollection()
    for leaf in pytree.tree_leaves(inputs):
        shapes[leaf] = {0: Dim.DYNAMIC}
    return torch.export.export(module, inputs, dynamic_shapes=shapes).module()


class Encoder(torch.nn.Module):
    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, image):
        return self.network.encode(image)


@torch.no_grad()
@pytest.mark.parametrize("cls", [*NETWORKS, *together()])
def test_exported_graphs_take_other_numbers_of_images_and_samples(cls):
    network = small(cls)
    image, x_t, t = inputs_of(network, 2, 3)
    encode, step = exported(Encoder(network), image), exported(network, x_t, t, network.encode(image))
    for images, samples in ((3, 5), (4, 2)):
        image, x_t, t = inputs_of(network, images, samples)
        condition = encode(image)
        torch.testing.assert_close(condition, network.encode(image), atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(step(x_t, t, condition), network(x_t, t, condition), atol=1e-5, rtol=1e-5)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning", "ignore:.*torch.jit.trace:FutureWarning")
@pytest.mark.parametrize("cls", [*NETWORKS, *lite_designs(), *v1_designs()])
def test_steps_can_be_traced(cls):
    network = small(cls).requires_grad_(False)
    image, x_t, t = inputs_of(network, 2, 3)
    leaves, structure = pytree.tree_flatten(network.encode(image))

    def step(x_t, t, *leaves):
        return network(x_t, t, pytree.tree_unflatten(leaves, structure))

    traced = torch.jit.trace(step, (x_t, t, *leaves), check_trace=False)
    image, x_t, t = inputs_of(network, 2, 3)
    image, x_t = image.flip(-1), x_t.flip(-1)
    condition = network.encode(image)
    torch.testing.assert_close(traced(x_t, t, *pytree.tree_leaves(condition)), network(x_t, t, condition))


def test_a_condition_is_a_tree_of_tensors():
    condition = small(StochasticUNet).encode(torch.zeros(1, 3, 32, 32))
    leaves, structure = pytree.tree_flatten(condition)
    assert len(leaves) == 4  # the mean is the prior as well
    assert all(isinstance(leaf, torch.Tensor) for leaf in leaves)
    assert isinstance(pytree.tree_unflatten(leaves, structure), Condition)
