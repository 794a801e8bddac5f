"""MedSegDiff-V2 and -lite: a condition network once per image, and what each part of them does."""

import math

import pytest
import torch
import torch.nn.functional as F
from helpers.small_networks import small
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from diffmedseg import zoo
from diffmedseg.configurable import to_config
from diffmedseg.diffusion import NoiseProcess, PriorLoss, ReverseProcess
from diffmedseg.metrics.cases import score_cases, score_image
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter, MedSegDiffV1, MedSegDiffV2, ResidualUNet, SMPNetwork
from diffmedseg.models.layers import layer_norm
from diffmedseg.models.medsegdiff.denoiser_v2 import SpatialAnchor
from diffmedseg.models.medsegdiff.ss_former import SpectralCrossAttention, SpectrumFilter, SSFormer

CONDITIONED = [MedSegDiffV2, MedSegDiffLite]
IMAGE = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
MASK = (IMAGE[:, :1] > 0).float()
T = torch.tensor([10, 900])


def x_t(rows=2):
    return torch.randn(rows, 1, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("cls", CONDITIONED)
def test_the_condition_network_runs_once_per_image(cls):
    network = small(cls)
    runs = []
    network.condition.register_forward_hook(lambda *_: runs.append(1))
    network.condition.bottleneck.register_forward_hook(lambda *arguments: runs.append(len(arguments[2])))
    MedSegDiffSegmenter(network, image_size=(32, 32)).segment(IMAGE, num_samples=5, num_steps=4)
    assert runs == [2]


@pytest.mark.parametrize("cls", CONDITIONED)
def test_the_condition_network_is_the_control(cls):
    """So that a trained control can be taken over, and the two are compared on equal terms."""
    control, network = small(ResidualUNet), small(cls)
    network.condition.load_state_dict(control.state_dict())
    torch.testing.assert_close(network.encode(IMAGE).prior, control.encode(IMAGE).prior)


@pytest.mark.parametrize("cls", CONDITIONED)
def test_the_image_and_the_noisy_mask_both_matter(cls):
    network = small(cls)
    with torch.no_grad():
        first = network(x_t(), T, network.encode(IMAGE))
        other_image = network(x_t(), T, network.encode(-IMAGE))
        other_mask = network(-x_t(), T, network.encode(IMAGE))
    assert (first - other_image).abs().max() > 1e-3
    assert (first - other_mask).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("cls", "option"),
    [(MedSegDiffV2, name) for name in ("anchor", "semantic", "spectrum_filter")] + [(MedSegDiffLite, "residual")],
)
def test_every_part_can_be_switched_off(cls, option):
    torch.manual_seed(0)
    network = cls(3, 1, "tiny", **{option: False})
    condition = network.encode(IMAGE)
    out = network(x_t(), T, condition)
    assert out.shape == MASK.shape
    if option != "residual":  # which has no weights of its own
        assert len(list(network.parameters())) < len(list(cls(3, 1, "tiny").parameters()))
    assert any(feature.requires_grad for feature in condition.features)  # the image still conditions


@pytest.mark.parametrize("cls", CONDITIONED)
def test_an_encoder_of_smp_as_the_condition_network(cls):
    torch.manual_seed(0)
    network = cls(4, 2, "tiny", encoder="resnet18").eval()
    image = torch.zeros(1, 4, 64, 96)
    out = network(torch.randn(3, 2, 64, 96), torch.tensor([1, 2, 3]), network.encode(image))
    assert out.shape == (3, 2, 64, 96)
    with pytest.raises(ValueError, match="64 x 64"):
        network.encode(torch.zeros(1, 4, 40, 40))


@pytest.mark.parametrize("cls", [*CONDITIONED, SMPNetwork])
def test_a_slim_decoder_keeps_the_encoder_and_is_stored_as_numbers(cls):
    usual, slim = (cls(3, 1, encoder="resnet18", decoder_channels=width) for width in (None, "slim"))
    networks = [getattr(network, "condition", network).network for network in (usual, slim)]
    own, fewer = (sum(value.numel() for value in network.decoder.parameters()) for network in networks)
    assert fewer < own / 2
    shapes = [[value.shape for value in network.encoder.state_dict().values()] for network in networks]
    assert shapes[0] == shapes[1]
    stored = to_config(slim)
    assert stored["init_args"]["decoder_channels"] == [96, 48, 32, 16, 16]
    assert to_config(usual)["init_args"]["decoder_channels"] is None
    zoo.build(stored).load_state_dict(slim.state_dict())


@pytest.mark.parametrize(
    ("message", "options"),
    [
        (r"decoder_channels is \[8, 8\]; give 5 positive numbers", {"decoder_channels": [8, 8]}),
        ("give 5 positive numbers", {"decoder_channels": [8, 8, 8, 8, 0]}),
        ("give 4 positive numbers", {"decoder_channels": [8, 8, 8, 8, 8], "encoder_depth": 4}),
        ("encoder_depth is 6; it has to be from 3 to 5", {"encoder_depth": 6}),
        ("no decoder width 'slender'", {"decoder_channels": "slender"}),
        ("cannot be set for the architecture fpn", {"decoder_channels": "slim", "architecture": "fpn"}),
        ("cannot be set for the architecture deeplabv3", {"decoder_channels": "slim", "architecture": "deeplabv3"}),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(message, options):
    with pytest.raises(ValueError, match=message):
        SMPNetwork(3, 1, encoder="resnet18", **options)


@pytest.mark.parametrize("cls", [*CONDITIONED, SMPNetwork])
def test_a_shallower_encoder_leaves_its_last_blocks_out_and_keeps_the_rest(cls, tmp_path):
    """As of the whole encoder; with DDP every parameter that learns has to have a gradient."""
    torch.manual_seed(0)
    whole = SMPNetwork(3, 1, encoder="tu-tf_efficientnet_lite0", decoder_channels=[16, 8, 8, 8, 8])
    file = tmp_path / "encoder.safetensors"
    save_file(whole.network.encoder.state_dict(), file)
    options = {"encoder": "lite0", "encoder_weights": str(file), "encoder_depth": 4, "decoder_channels": [8, 8, 8, 8]}
    network = cls(3, 1, **options)
    smp = getattr(network, "condition", network)
    own, theirs = smp.network.encoder.state_dict(), whole.network.encoder.state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in own.items())
    sizes = [sum(value.numel() for value in one.network.encoder.parameters()) for one in (whole, smp)]
    assert sizes[1] < sizes[0] / 3
    maps = [one.eval().image_maps(IMAGE) for one in (whole, smp)]
    assert all(torch.equal(a, b) for a, b in zip(*maps, strict=False))
    assert len(maps[1]) == len(maps[0]) - 1
    smp.train().encode(IMAGE).prior.sum().backward()
    assert all(p.grad is not None for p in smp.parameters() if p.requires_grad)
    zoo.build(to_config(network)).load_state_dict(network.state_dict())


def test_a_shallower_network_takes_smaller_images_and_has_the_usual_decoder():
    network = SMPNetwork(3, 1, encoder="resnet18", encoder_depth=3)
    assert (network.divisor, network.decoder_channels) == (8, [64, 32, 16])
    assert network.encode(torch.zeros(1, 3, 24, 40)).prior.shape == (1, 1, 24, 40)


def test_our_own_network_takes_no_channels_of_a_decoder():
    with pytest.raises(ValueError, match="decoder_channels needs an encoder"):
        MedSegDiffLite(3, 1, decoder_channels="slim")
    with pytest.raises(ValueError, match="encoder_depth needs an encoder"):
        MedSegDiffLite(3, 1, encoder_depth=4)


def test_an_architecture_without_a_map_before_its_mask_is_refused():
    with pytest.raises(ValueError, match="dpt gives no map"):
        SMPNetwork(3, 1, "dpt", "tu-vit_tiny_patch16_224")


@pytest.mark.parametrize("suffix", ["safetensors", "pth"])
def test_weights_of_an_encoder_from_a_file(suffix, tmp_path):
    torch.manual_seed(0)
    first = SMPNetwork(3, 1, encoder="resnet18")
    state, file = first.network.encoder.state_dict(), tmp_path / f"encoder.{suffix}"
    save_file(state, file) if suffix == "safetensors" else torch.save(state, file)
    again = MedSegDiffLite(3, 1, encoder="resnet18", encoder_weights=str(file)).condition.network.encoder.state_dict()
    assert all(torch.equal(again[name], value) for name, value in state.items())
    with pytest.raises(ValueError, match="does not hold the weights of this encoder"):
        SMPNetwork(3, 1, encoder="resnet34", encoder_weights=str(file))
    file.write_bytes(b"no weights")
    with pytest.raises(ValueError, match="does not hold the weights of this encoder"):
        SMPNetwork(3, 1, encoder="resnet18", encoder_weights=str(file))


@pytest.mark.parametrize("channels", [1, 4])
def test_weights_for_colours_serve_other_channels(channels, tmp_path):
    """As those of the hub do: a grey image is to one channel what it is to three alike."""
    torch.manual_seed(0)
    first, file = SMPNetwork(3, 1, encoder="resnet18"), tmp_path / "encoder.safetensors"
    save_file(first.network.encoder.state_dict(), file)
    again = SMPNetwork(channels, 1, encoder="resnet18", encoder_weights=str(file)).network.encoder
    kernels, own = first.network.encoder.conv1.weight, again.conv1.weight
    expected = kernels.sum(1, keepdim=True) if channels == 1 else kernels[:, [0, 1, 2, 0]] * 3 / 4
    torch.testing.assert_close(own, expected)
    assert torch.equal(first.network.encoder.layer1[0].conv1.weight, again.layer1[0].conv1.weight)
    save_file(again.state_dict(), file)
    same = SMPNetwork(channels, 1, encoder="resnet18", encoder_weights=str(file)).network.encoder
    assert torch.equal(same.conv1.weight, own)


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_a_missing_file_of_weights_is_said_to_be_missing(encoder):
    """And is no reason to fetch others."""
    with pytest.raises(ValueError, match=r"no file weights/mine\.pth"):
        SMPNetwork(3, 1, encoder=encoder, encoder_weights="weights/mine.pth")


@pytest.mark.parametrize("encoder", ["efficientnet-b0", "timm-efficientnet-b0"])
def test_nothing_of_an_encoder_waits_for_gradients_that_never_come(encoder):
    """Processes of many would wait for them. EfficientNets have layers beyond their last map."""
    torch.manual_seed(0)
    network = MedSegDiffLite(3, 1, encoder=encoder)
    condition = network.encode(IMAGE)
    (network(x_t(), T, condition).square().mean() + condition.prior.square().mean()).backward()
    assert not [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]


# MedSegDiff-V2.


def test_the_anchor_is_the_papers_formula():
    torch.manual_seed(0)
    anchor, f = SpatialAnchor(3, 5), torch.randn(2, 3, 16, 16)
    kernel = anchor.gaussian.weight.detach()
    assert kernel.sum((-2, -1)).flatten().tolist() == pytest.approx([1, 1, 1])
    assert torch.equal(kernel, kernel.flip(-1))
    blurred = F.conv2d(f, kernel, padding=2, groups=3)
    expected = F.conv2d(torch.maximum(blurred, f), anchor.project.weight, anchor.project.bias).sigmoid()
    torch.testing.assert_close(anchor(f), expected)


def test_the_anchor_gates_the_first_map_and_leaves_it_what_it_was():
    network, seen = small(MedSegDiffV2), []
    network.stages[0].register_forward_hook(lambda *given: seen.append(given[2]))
    network.decoder.register_forward_pre_hook(lambda _, given: seen.append(given[1][0]))
    with torch.no_grad():
        condition = network.encode(IMAGE)
        network(x_t(), T, condition)
    before, after = seen
    torch.testing.assert_close(after, before * (1 + condition.features[0]))


@pytest.mark.parametrize(("layers", "filtered"), [(2, True), (2, False), (0, True)])
def test_ss_former_lets_both_maps_answer_and_heeds_time_in_its_filters_alone(layers, filtered):
    torch.manual_seed(0)
    former = SSFormer(8, 6, layers, filtered)
    for parameter in former.parameters():
        torch.nn.init.normal_(parameter, std=0.5)

    def answer(c, e, time):
        return former(c, e, time) - c - e

    c, e, time = torch.randn(1, 8, 4, 4), torch.randn(1, 8, 4, 4), torch.randn(1, 6)
    found = answer(c, e, time)
    others = answer(c, e, -time), answer(-c, e, time), answer(c, -e, time)
    differs = [bool((found - other).abs().max() > 1e-3) for other in others]
    assert differs == [filtered and layers > 0, layers > 0, layers > 0]


def attention(filtered=True):
    torch.manual_seed(0)
    attention = SpectralCrossAttention(6, 8, filtered)
    torch.nn.init.eye_(attention.out.weight[:, :, 0, 0])
    return attention


def test_attention_equals_the_affinity_of_the_spectra():
    """Against the paper's order: transform, multiply, filter, transform back; on all pairs of positions."""
    module = attention()
    torch.nn.init.normal_(module.filter.head.weight)
    query, key, value, time = (
        torch.randn(1, 6, 4, 6),
        torch.randn(1, 6, 4, 6),
        torch.randn(1, 6, 4, 6),
        torch.ones(1, 8),
    )
    q, k = (layer_norm(conv(m))[0].double() for conv, m in ((module.query, query), (module.key, key)))
    v = module.value(value)[0].flatten(1).double()
    half = module.filter(4, 6, time)[0, 0].double()
    rows = (-torch.arange(4)) % 4  # what is real has the same at a frequency and its negative
    response = torch.cat([half, half[rows][:, 1:3].flip(1)], 1)
    spectra = [torch.fft.fft2(m, norm="ortho").flatten(1) for m in (q, k)]
    affinity = torch.einsum("cf,cg->fg", *[s if i == 0 else s.conj() for i, s in enumerate(spectra)])
    filtered = (affinity * response.flatten()[:, None]).reshape(4, 6, 4, 6)
    back = torch.fft.fft2(torch.fft.ifft2(filtered, dim=(0, 1), norm="ortho"), dim=(2, 3), norm="ortho").reshape(24, 24)
    expected = torch.einsum("nm,cm->cn", back.real, v).reshape(6, 4, 6) / (24 * 6**0.5)
    found = module(query, key, value, time)[0].double()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_the_filter_starts_as_all_pass_and_learns_to_heed_time():
    torch.manual_seed(0)
    spectrum_filter, times = SpectrumFilter(8), torch.randn(2, 8)
    torch.testing.assert_close(spectrum_filter(6, 10, times), torch.ones(2, 1, 6, 6))
    torch.nn.init.normal_(spectrum_filter.head.weight)
    early, late = spectrum_filter(6, 10, times)
    assert (early - late).abs().max() > 1e-3
    assert (early - early.mean()).abs().max() > 1e-3


# MedSegDiff-lite.


@pytest.mark.parametrize("size", ["tiny", "base"])
def test_sixteen_samples_of_four_steps_are_three_passes_of_the_control(size):
    control, network = ResidualUNet(3, 1, size).eval(), MedSegDiffLite(3, 1, size).eval()
    image, counted = torch.zeros(1, 3, 128, 128), []
    with torch.no_grad():
        condition = network.encode(image)
        for run in (
            lambda: control.encode(image),
            lambda: network(torch.zeros(1, 1, 128, 128), torch.tensor([5]), condition),
        ):
            with FlopCounterMode(display=False) as counter:
                run()
            counted.append(counter.get_total_flops())
    assert 0.01 < counted[1] / counted[0] < 3 / (16 * 4)


def test_lite_starts_as_its_prior():
    torch.manual_seed(0)
    network = MedSegDiffLite(3, 1, "tiny")
    condition = network.encode(IMAGE)
    torch.testing.assert_close(network(x_t(4), T.repeat(2), condition), condition.prior.repeat_interleave(2, 0))


def test_the_priors_logits_learn_from_their_own_loss_alone():
    network = small(MedSegDiffLite)
    network(x_t(), T, network.encode(IMAGE)).square().sum().backward()
    assert not [p for p in network.condition.decoder.head.parameters() if p.grad is not None and p.grad.any()]
    assert network.condition.stem.weight.grad.any()  # its features are for the steps to shape


def test_segmenter_trains_network_and_prior_together():
    torch.manual_seed(0)
    segmenter = MedSegDiffSegmenter(MedSegDiffLite(3, 1, "tiny"), image_size=(32, 32), noise_levels=3)
    optimizer = torch.optim.AdamW(segmenter.parameters(), 3e-3)
    losses = []
    for step in range(40):
        batch = {"image": IMAGE, "mask": MASK, "draw": [2 * step, 2 * step + 1], "id": ["a", "b"]}
        loss = segmenter.training_loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]
    prior = segmenter.eval().denoiser.encode(IMAGE).prior > 0
    assert (prior == MASK.bool()).float().mean() > 0.9
    assert (segmenter.segment(IMAGE).mask == MASK.bool()).float().mean() > 0.9


def test_prior_loss_counts_at_every_so_many_time_steps():
    logits, mask = torch.randn(2, 1, 8, 8, requires_grad=True), torch.ones(2, 1, 8, 8)
    whole, counted = PriorLoss(), PriorLoss(every=5)
    t = torch.tensor([[0, 5, 7, 10], [1, 2, 3, 4]])
    first = whole(logits[:1], mask[:1], t[:1])
    torch.testing.assert_close(counted(logits, mask, t), 0.75 * first / 2)
    nothing = counted(logits, mask, torch.ones_like(t))
    nothing.backward()  # multiplied by 0, not left out
    assert float(nothing.detach()) == 0
    assert not logits.grad.any()


def test_prior_loss_weighs_cross_entropy_and_dice():
    logits, mask, t = torch.randn(3, 2, 8, 8), (torch.randn(3, 2, 8, 8) > 0).float(), torch.zeros(3, 1)
    cross_entropy, dice = PriorLoss(bce=1, dice=0)(logits, mask, t), PriorLoss(bce=0, dice=1)(logits, mask, t)
    torch.testing.assert_close(cross_entropy, F.binary_cross_entropy_with_logits(logits, mask))
    torch.testing.assert_close(PriorLoss(bce=10, dice=2)(logits, mask, t), 10 * cross_entropy + 2 * dice)
    with pytest.raises(ValueError, match="at least 0"):
        PriorLoss(bce=-1)


def lite_segmenter(**options):
    return MedSegDiffSegmenter(small(MedSegDiffLite), image_size=(32, 32), num_steps=3, **options).eval()


def test_the_prior_comes_with_the_result():
    segmenter = lite_segmenter(prior_share=0.0)
    result = segmenter.segment(IMAGE, num_samples=3)
    with torch.no_grad():
        torch.testing.assert_close(result.prior, segmenter.denoiser.encode(IMAGE).prior.sigmoid())
    torch.testing.assert_close(result.probability, result.samples.mean(1))  # it has no vote by itself
    assert result[1].prior.shape == (1, 1, 32, 32)
    assert segmenter.at_size(result[1], (64, 48)).prior.shape == (1, 1, 32, 32)


def test_the_prior_has_a_share_of_the_votes_however_many_samples_there_are():
    for num_samples in (1, 3):
        result = lite_segmenter(prior_share=0.4).segment(IMAGE, num_samples=num_samples)
        torch.testing.assert_close(result.probability, 0.6 * result.samples.mean(1) + 0.4 * result.prior)
    assert result.samples.shape[1] == 3
    torch.testing.assert_close(result.mean, result.samples.mean(1))  # nor does it speak of disagreement
    for share in (-0.1, 1):
        with pytest.raises(ValueError, match="prior_share"):
            lite_segmenter(prior_share=share)


def test_chains_may_begin_with_the_prior():
    """In one step from a low level there is little room to leave it."""
    torch.manual_seed(0)
    segmenter = lite_segmenter(reverse=ReverseProcess(start=0.3), process=NoiseProcess())
    seen = []
    segmenter.denoiser.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[:2]))
    result = segmenter.segment(IMAGE, num_samples=2, num_steps=3)
    assert [int(t[0]) for _, t in seen] == [299, 199, 99]
    noisy, t = seen[0]
    signal, _ = segmenter.process.signal_and_noise(t)
    guess = (2 * result.prior - 1).repeat_interleave(2, 0)
    assert abs(float((noisy * signal).sum() / (guess * signal**2).sum()) - 1) < 0.1
    with pytest.raises(ValueError, match="or use MedSegDiffV2 or MedSegDiffLite"):
        MedSegDiffSegmenter(small(MedSegDiffV1), image_size=(32, 32), reverse=ReverseProcess(start=0.3)).segment(IMAGE)
    with pytest.raises(ValueError, match="predicts no prior mask"):
        MedSegDiffSegmenter(small(MedSegDiffV1), image_size=(32, 32), prior_share=0.5)
    with pytest.raises(ValueError, match="set residual to false"):
        lite_segmenter(process=NoiseProcess(prediction="v"))
    with pytest.raises(ValueError, match="start is 0"):
        ReverseProcess(start=0)


def test_stratified_noise_levels_come_from_every_part():
    network, seen = small(MedSegDiffLite), []
    network.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[1].reshape(-1, 4)))
    segmenter = MedSegDiffSegmenter(network, image_size=(32, 32), noise_levels=4, stratified=True)
    for draw in range(50):
        segmenter.training_loss({"image": IMAGE, "mask": MASK, "draw": [2 * draw, 2 * draw + 1], "id": ["a", "b"]})
    t = torch.cat(seen)
    assert torch.equal(t // 250, torch.arange(4).expand(100, 4))
    assert all(len(t[:, part].unique()) > 50 for part in range(4))


def test_the_prior_is_put_together_from_windows():
    segmenter = lite_segmenter()
    segmenter.tiling.remember((16, 16))
    assert segmenter.segment(IMAGE, num_samples=2).prior.shape == (2, 1, 32, 32)


def test_the_prior_is_scored_beside_the_samples():
    probability, reference = torch.zeros(1, 8, 8), torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    reference[..., :4] = 1
    prior = reference[0].float()
    image = score_image("a", probability, probability[None], reference, 0.5, 0.0, prior=prior)
    other = score_image("a", probability, probability[None], reference, 0.5, 0.0, prior=1 - prior)
    [row] = score_cases([image, other], ["lesion"])
    assert row.dice == 0
    assert row.dice_prior == 0.5
    [row] = score_cases([score_image("a", probability, probability[None], reference, 0.5, 0.0)], ["lesion"])
    assert math.isnan(row.dice_prior)
