import inspect
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context

import pytest
import torch
from small_networks import concrete_denoisers, lite_designs, small, v1_designs

from diffmedseg.models import MedSegDiffLite, MedSegDiffV1, MedSegDiffV2, ResidualUNet
from diffmedseg.models.layers import layer_norm
from diffmedseg.models.medsegdiff.ff_parser import (
    FFParser,
    column_frequencies,
    filter_by_products,
    filter_spectrum,
    row_frequencies,
)
from diffmedseg.models.sizes import SIZES

DENOISERS = [*concrete_denoisers(), *lite_designs(), *v1_designs()]
FULL_LITE = partial(MedSegDiffLite, patches="interpolated", ff_parser=True, dynamic_encoding=True)


def inputs(batch=2, samples=1, size=(32, 32), channels=3, regions=1):
    generator = torch.Generator().manual_seed(3)
    image = torch.rand(batch, channels, *size, generator=generator) * 2 - 1
    x_t = torch.randn(batch * samples, regions, *size, generator=generator)
    return image, x_t, torch.randint(1000, (batch * samples,), generator=generator)


def inputs_of(network, batch=2, samples=1, size=(32, 32)):
    """Image, x_t and t for a network; further arguments for those that know labels."""
    image, x_t, t = inputs(batch, samples, size, network.image_channels, network.x_channels)
    return image, x_t, t, torch.arange(len(x_t)) % 2


def test_there_are_denoisers_to_test():
    assert MedSegDiffV1 in DENOISERS
    assert len(concrete_denoisers()) >= 3


@pytest.mark.parametrize("cls", DENOISERS)
def test_channels_can_be_linked(cls):
    """The command line skips a link silently where the parameter is missing."""
    assert {"image_channels", "mask_channels"} <= set(inspect.signature(cls).parameters)


@pytest.mark.parametrize("size", [(64, 64), (96, 96), (128, 128), (64, 96)])
@pytest.mark.parametrize("cls", DENOISERS)
def test_every_size_that_fits(cls, size):
    network = small(cls, 4, 2)
    image, x_t, t, label = inputs_of(network, 1, 2, size)
    with torch.no_grad():
        out = network(x_t, t, network.encode(image), label)
    assert out.shape[1:] == x_t.shape[1:]
    assert torch.isfinite(out).all()


@pytest.mark.parametrize("cls", DENOISERS)
def test_misfits_are_refused_with_the_size_that_fits(cls):
    network = small(cls)
    with pytest.raises(ValueError, match=f"resize or pad it to {2 * network.divisor} x {2 * network.divisor}"):
        network.encode(torch.zeros(1, 3, network.divisor + 1, 2 * network.divisor - 1))
    with pytest.raises(ValueError, match="5 channels"):
        network.encode(torch.zeros(1, 5, 32, 32))


@pytest.mark.parametrize("cls", DENOISERS)
def test_rows_do_not_touch_each_other(cls):
    network = small(cls)
    image, x_t, t, label = inputs_of(network, 3, 2)
    with torch.no_grad():
        together = network(x_t, t, network.encode(image), label)
        rows = len(together) // 3
        alone = [
            network(x_t[own], t[own], network.encode(image[i : i + 1]), label[own])
            for i, own in enumerate((slice(0, 2), slice(2, 4), slice(4, 6)))
        ]
    assert rows in (1, 2)
    torch.testing.assert_close(together, torch.cat(alone), atol=1e-4, rtol=1e-4)


def compile_a_step(cls):
    network = small(cls)
    names = list(network.state_dict())
    image, x_t, t, _ = inputs_of(network, 2, 2)
    with torch.inference_mode():
        condition = network.encode(image)
        before = network(x_t, t, condition)
        network.compile(backend="eager", fullgraph=True)
        torch.testing.assert_close(network(x_t, t, condition), before)
    assert list(network.state_dict()) == names


@pytest.mark.parametrize("cls", [MedSegDiffV1, MedSegDiffV2, MedSegDiffLite, FULL_LITE])
def test_a_step_is_one_graph_when_compiled(cls):
    """Nothing in it falls back to Python, as reading a value off a GPU would; weights keep their names.

    In a process of its own: one that has compiled cannot fork and train, as tests of several processes do.
    """
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
        pool.submit(compile_a_step, cls).result()


@pytest.mark.parametrize("cls", DENOISERS)
def test_every_parameter_learns(cls):
    network = small(cls).train()
    image, x_t, t, label = inputs_of(network)
    condition = network.encode(image)
    loss = network(x_t, t, condition, label).square().mean()
    loss = loss if condition.prior is None else loss + condition.prior.square().mean()
    if condition.normal is not None:
        loss = loss + condition.normal.factors.square().mean() + condition.normal.deviation.mean()
    loss.backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


@pytest.mark.parametrize("size", SIZES)
def test_sizes_agree_with_their_table(size):
    with torch.device("meta"):
        network = MedSegDiffV1(3, 1, size)
    assert [stage.blocks[-1].conv_2.out_channels for stage in network.x_stages] == list(SIZES[size].widths)


def test_three_stages_have_the_blocks_of_resnet34():
    """V1's text, section 3.1: three stages per encoder; the sum of the two goes to the last one."""
    with torch.device("meta"):
        network, baseline = MedSegDiffV1(3, 1, "resnet34"), ResidualUNet(3, 1, "resnet34")
    for stages in (network.x_stages, network.image_stages, baseline.stages):
        assert [len(stage.blocks) for stage in stages] == [3, 4, 6]
        assert [stage.blocks[-1].conv_2.out_channels for stage in stages] == [64, 128, 256]
    for last in (network.bottleneck, baseline.bottleneck):
        assert [block.conv_2.out_channels for block in last.stage.blocks] == [512] * 3
    assert sorted(network.dynamic) == ["1", "2"]


@pytest.mark.parametrize("cls", [MedSegDiffV1, ResidualUNet])
def test_the_last_stage_is_part_of_the_network(cls):
    network = cls(3, 1, "resnet34").train()
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    with pytest.raises(ValueError, match="divisible by 8"):
        network.encode(torch.zeros(1, 3, 12, 8))
    out = network(torch.randn(2, 1, 16, 8), torch.tensor([3, 700]), network.encode(torch.randn(2, 3, 16, 8)))
    assert out.shape == (2, 1, 16, 8)
    out.square().mean().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()]


def test_time_reaches_the_image_encoder_only_where_it_is_asked_for():
    """Eq. 2 of the paper embeds time in both encoders; then only the first convolution is shared by the steps."""
    image, x_t, t = torch.randn(1, 3, 16, 16), torch.randn(2, 1, 16, 16), torch.tensor([3, 700])
    plain, timed = small(MedSegDiffV1), small(partial(MedSegDiffV1, image_time=True))
    assert torch.equal(timed.encode(image).features[0], timed.image_stem(image))
    assert timed.image_maps(image)[0].shape == plain.image_maps(image)[0].shape
    seen = []
    timed.image_stages[0].register_forward_hook(lambda module, given, out: seen.append(out))
    timed(x_t[:1].repeat(2, 1, 1, 1), t, timed.encode(image))
    assert not torch.allclose(seen[0][0], seen[0][1])
    more = sum(p.numel() for p in timed.parameters()) - sum(p.numel() for p in plain.parameters())
    assert more == sum(b.time.weight.numel() + b.time.bias.numel() for s in timed.image_stages for b in s.blocks)


def test_the_filter_can_have_a_value_at_every_frequency():
    """Eq. 5 of the paper: A of H x W x C, of which a real map needs half."""
    network = MedSegDiffV1(3, 1, "tiny", filter_size=64)
    for level, side in (("1", 32), ("2", 16)):
        filter_ = network.dynamic[level].filter
        torch.nn.init.normal_(filter_.weight)
        frequencies = torch.fft.fftfreq(side)
        rows = ((frequencies + 0.5) * side).round().long()
        free = torch.complex(*filter_.weight[:, :, rows])
        assert free.shape[1:] == (side, side // 2 + 1)
        torch.testing.assert_close(filter_.response(side, side), free, atol=1e-5, rtol=1e-4)
    with pytest.raises(ValueError, match="filter_size is 60; it has to be divisible by 8"):
        MedSegDiffV1(3, 1, "tiny", filter_size=60)


def test_parts_can_be_switched_off_for_the_ablation():
    """MedSegDiff, table 2: plain, + dynamic encoding, + FF-Parser."""
    count = {
        (dynamic, ff): sum(p.numel() for p in MedSegDiffV1(3, 1, "tiny", dynamic, ff).parameters())
        for dynamic in (False, True)
        for ff in (False, True)
    }
    filters = sum(p.numel() for width in (32, 48) for p in FFParser(width).parameters())
    assert count[True, True] - count[True, False] == filters
    assert count[True, False] == count[False, False]  # the affinity product has no parameters
    plain = MedSegDiffV1(3, 1, "tiny", dynamic_encoding=False, ff_parser=False)
    assert len(plain.dynamic) == 0


def test_dynamic_encoding_lets_x_t_reach_the_image_encoder(v1):
    image, x_t, t = inputs(1)
    seen = []
    v1.image_stages[-1].register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        condition = v1.encode(image)
        v1(x_t, t, condition)
        v1(x_t + 1, t, condition)
    assert not torch.allclose(seen[0], seen[1])


def test_affinity_product_is_equation_3(v1):
    m_i, m_x = torch.randn(2, 32, 8, 8), torch.randn(2, 32, 8, 8)
    expected = layer_norm(m_i) * layer_norm(v1.dynamic["1"].filter(m_x)) * m_i
    torch.testing.assert_close(v1.dynamic["1"](m_i, m_x), expected)
    torch.testing.assert_close(layer_norm(m_i).mean(1), torch.zeros(2, 8, 8), atol=1e-5, rtol=0)


def test_same_input_same_output(v1):
    """The released V1 makes a new random projection in every forward pass."""
    image, x_t, t = inputs()
    with torch.no_grad():
        torch.testing.assert_close(v1(x_t, t, v1.encode(image)), v1(x_t, t, v1.encode(image)), atol=0, rtol=0)


@pytest.mark.parametrize("size", [(64, 64), (63, 65), (17, 96), (8, 8)])
def test_filter_starts_as_the_identity(size):
    m = torch.randn(2, 5, *size)
    torch.testing.assert_close(FFParser(5)(m), m, atol=1e-5, rtol=0)


def low_pass(cutoff):
    """A filter that keeps frequencies below ``cutoff`` cycles per pixel, rows and columns alike."""
    parser = FFParser(1, grid=33)
    rows, columns = torch.linspace(-0.5, 0.5, 33).abs(), torch.linspace(0, 0.5, 17)
    with torch.no_grad():
        parser.weight[0, 0] = ((rows[:, None] < cutoff) & (columns[None] < cutoff)).float()
    return parser


def wave(size, cycles_per_pixel, vertical):
    position = torch.arange(size)
    values = torch.cos(2 * torch.pi * cycles_per_pixel * position)
    return (values[:, None] if vertical else values[None]).expand(size, size)[None, None]


@pytest.mark.parametrize("vertical", [False, True])
@pytest.mark.parametrize(("frequency", "gain"), [(0.125, 1.0), (0.375, 0.0)])
def test_a_low_pass_acts_alike_at_every_size(frequency, gain, vertical):
    """Interpolating over unsigned rows would mix the highest positive and negative frequencies."""
    for size in (64, 96):
        m = wave(size, frequency, vertical)
        torch.testing.assert_close(low_pass(0.25)(m), gain * m, atol=1e-4, rtol=0)


def test_filter_treats_positive_and_negative_row_frequencies_apart():
    parser = FFParser(1)
    with torch.no_grad():
        parser.weight[0, 0, : parser.weight.shape[2] // 2] = 0  # no negative row frequencies
    response = parser.response(16, 16).real[0]
    assert response[1:7].min() > 0.4
    assert response[10:15, 1:].max() < 1e-6


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (8, 9), (2, 2), (1, 1)])
def test_filtering_leaves_nothing_to_how_a_device_reads_half_spectra(size, monkeypatch):
    """A transform that reads one of two frequencies that stand for each other (cuFFT), and one that averages, agree."""
    torch.manual_seed(0)
    averaging, height = torch.fft.irfft2, size[0]

    def reading_one(spectrum, s, norm):
        spectrum = spectrum.clone()
        for column in (0, -1)[: 2 - s[1] % 2]:
            for row in range(height // 2 + 1):
                spectrum[..., -row % height, column] = spectrum[..., row, column].conj()
        return averaging(spectrum, s, norm=norm)

    m, response = torch.randn(3, *size), torch.randn(3, height, size[1] // 2 + 1, dtype=torch.complex64)
    plain = averaging(torch.fft.rfft2(m) * response, size)
    torch.testing.assert_close(filter_spectrum(m, response), plain)  # weights from before mean what they meant
    monkeypatch.setattr(torch.fft, "irfft2", reading_one)
    torch.testing.assert_close(filter_spectrum(m, response), plain)


@pytest.mark.parametrize("size", [(8, 8), (9, 12), (6, 7), (1, 2)])
def test_products_filter_as_transforms_do(size):
    """For graphs, which have no complex numbers."""
    m, parts = torch.randn(2, 3, *size), torch.randn(2, 3, size[0], size[1] // 2 + 1)
    expected = filter_spectrum(m, torch.complex(*parts))
    torch.testing.assert_close(filter_by_products(m, *parts), expected, atol=1e-5, rtol=1e-5)
    expected = filter_spectrum(m, parts[:1])
    torch.testing.assert_close(filter_by_products(m, parts[:1]), expected, atol=1e-5, rtol=1e-5)


def test_filter_keeps_the_dtype_and_runs_in_float32():
    m = torch.randn(1, 2, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert FFParser(2)(m.bfloat16()).dtype == torch.bfloat16
        torch.testing.assert_close(FFParser(2)(m), m, atol=1e-6, rtol=0)


def test_filter_needs_a_grid_point_at_zero_frequency():
    with pytest.raises(ValueError, match="odd"):
        FFParser(2, grid=8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_half_precision_are_refused(dtype):
    with pytest.raises(ValueError, match=rf"{dtype}; they have to stay float32.*bf16-mixed"):
        MedSegDiffV1(3, 1, "tiny").to(dtype).encode(torch.zeros(1, 3, 32, 32, dtype=dtype))


@pytest.mark.parametrize("length", [1, 2, 7, 8, 64])
def test_frequencies_are_those_of_the_transform(length):
    device = torch.device("cpu")
    assert torch.equal(row_frequencies(length, device), torch.fft.fftfreq(length))
    assert torch.equal(column_frequencies(length, device), torch.fft.rfftfreq(length))
