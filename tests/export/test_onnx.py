"""A graph gives what its model gives."""

import json
from functools import partial

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, UniPCMultistepScheduler
from helpers.dark_disc import dark_segmenter
from helpers.small_networks import small

from diffmedseg.cli import main
from diffmedseg.diffusion import ReverseProcess
from diffmedseg.errors import ExportError
from diffmedseg.export import OnnxSegmenter, export_onnx
from diffmedseg.export.noise import draw_noise
from diffmedseg.models import (
    MedSegDiffLite,
    MedSegDiffSegmenter,
    MedSegDiffV1,
    ResidualUNet,
    SSNSegmenter,
    StochasticUNet,
    SupervisedSegmenter,
)
from diffmedseg.postprocessing.calibration import TemperatureScaling
from diffmedseg.postprocessing.conformal import Conformal
from diffmedseg.postprocessing.fusion import MajorityFusion, STAPLEFusion
from diffmedseg.postprocessing.refinement import LargestComponent

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")  # which brings onnx


def lite(channels=3, regions=1, network=None, **options):
    options = {"image_size": (32, 64), "num_samples": 3, "num_steps": 3} | options
    reverse = ReverseProcess(UniPCMultistepScheduler())
    denoiser = small(network or MedSegDiffLite, channels, regions)
    return MedSegDiffSegmenter(denoiser, **{"reverse": reverse} | options).eval()


EVERYTHING = partial(MedSegDiffLite, presence=True, prior="samples", patches="interpolated")


def cropped():
    model = SSNSegmenter(small(StochasticUNet), image_size=(32, 48)).eval()  # two windows, which overlap
    model.tiling.crop.fill_(32)
    return model


MODELS = {
    "lite, calibrated": lambda: lite(
        calibration=TemperatureScaling(1.4, 0.2),
        threshold=0.45,
        conformal=Conformal([0.6], [0.4], [1.0], 0.95, 0.9, 30, 3, 3),
    ),
    "nested regions, sampled priors, presence": lambda: lite(
        4, 3, EVERYTHING, nested=True, prior_share=0.3, fusion=MajorityFusion(), num_steps=2
    ),
    "windows": cropped,
    "V1": lambda: lite(network=MedSegDiffV1, image_size=(16, 16), num_steps=1, reverse=ReverseProcess()),
    "SSN": lambda: SSNSegmenter(small(StochasticUNet, 3, 2), image_size=(32, 32), nested=True).eval(),
    "supervised": lambda: SupervisedSegmenter(small(ResidualUNet), image_size=(32, 32)).eval(),
}


@pytest.fixture(scope="module")
def export_once(tmp_path_factory):
    """A model and its files, by name; the first is the sampler's. Each is exported once: that takes seconds."""
    done = {}

    def get(name):
        if name not in done:
            model = MODELS[name]()
            done[name] = model, export_onnx(model, tmp_path_factory.mktemp("onnx") / "x.onnx", "a name")
        return done[name]

    return get


@pytest.fixture(scope="module", params=MODELS)
def exported(request, export_once):
    return export_once(request.param)


def images(model, batch, size):
    return np.random.default_rng(batch).random((batch, len(model.channels), *size), np.float32) * 2 - 1


@pytest.mark.parametrize(("batch", "size", "samples"), [(1, (32, 32), 1), (2, (70, 45), 5)])
def test_a_graph_gives_the_masks_of_its_model(exported, batch, size, samples):
    model, files = exported
    image = images(model, batch, size)
    expected = model.segment(image, num_samples=samples, num_steps=model.num_steps, seed=7)
    found = OnnxSegmenter(files[0]).segment(image, num_samples=samples, seed=7)
    for name in ("samples", "probability", "uncertainty", "prior"):
        if getattr(expected, name) is None:
            assert getattr(found, name) is None
        else:
            atol = 1e-3 if name == "uncertainty" else 1e-4  # a root, steep at 0
            np.testing.assert_allclose(getattr(found, name), getattr(expected, name), atol=atol)
    close = np.abs(expected.probability.numpy() - model.threshold) < 1e-4
    np.testing.assert_array_equal(found.mask[~close], expected.mask.numpy()[~close])
    assert found.mask.dtype == np.bool_
    assert (found.inner is None) == (expected.inner is None)
    if found.inner is not None:
        assert (found.inner != expected.inner.numpy()).mean() < 1e-3
        assert (found.outer != expected.outer.numpy()).mean() < 1e-3


def test_the_contract_is_in_the_graph(exported):
    model, files = exported
    contract = OnnxSegmenter(files[0]).contract
    assert (contract.model, contract.channels, contract.regions) == ("a name", model.channels, model.regions)
    assert (contract.threshold, contract.num_steps) == (model.threshold, model.num_steps)
    assert [path.name for path in files] == ["x.onnx", "x.encode.onnx", "x.step.onnx"][: len(files)]


def test_a_loop_over_encode_and_step_gives_the_samples(export_once):
    """The loop is that of docs/how-to/onnx.md."""
    model, (sampler, *others) = export_once("lite, calibrated")
    encode, step = (onnxruntime.InferenceSession(str(path)) for path in others)
    image = images(model, 1, model.image_size)
    noise = {"noise": np.random.default_rng(0).standard_normal((1, 3, 1, *model.image_size), np.float32)}
    condition = dict(zip((o.name for o in encode.get_outputs()), encode.run(None, {"image": image}), strict=True))
    steps = json.loads(step.get_modelmeta().custom_metadata_map["diffmedseg"])["steps"]
    x_t = noise["noise"][0]
    terms = [x_t]
    for number, t in enumerate(steps["levels"]):
        (x_0,) = step.run(["x_0"], {"x_t": x_t, "t": np.full(3, t), **condition})
        terms.append(x_0)
        if number < len(steps["weights"]):
            x_t = sum(np.float32(w) * term for w, term in zip(steps["weights"][number], terms, strict=True))
    samples = OnnxSegmenter(sampler).run(image, noise)["samples"][0]
    np.testing.assert_allclose((x_0 + 1) / 2, samples, atol=1e-4)
    with pytest.raises(ExportError, match="holds the graph 'step', which does not segment by itself"):
        OnnxSegmenter(others[1])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (dark_segmenter, "DarkSegmenter cannot be exported"),
        (lambda: lite(refinement=LargestComponent()), "LargestComponent.*--no_refinement"),
        (lambda: lite(tta="flips", num_samples=4), "tta=flips"),
        (lambda: lite(reverse=ReverseProcess(DDPMScheduler())), "DDPMScheduler adds noise at every step"),
        (lambda: lite(num_steps=1, fusion=STAPLEFusion()), "The sampler of MedSegDiff-Lite .* cannot be a graph"),
    ],
    ids=["no graph", "refinement", "tta", "noisy", "STAPLE"],
)
def test_what_is_no_graph_is_refused(model, message, tmp_path):
    with pytest.raises(ExportError, match=message):
        export_onnx(model(), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_a_graph_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model = SupervisedSegmenter(small(ResidualUNet), image_size=(16, 16)).eval()
    monkeypatch.setattr("diffmedseg.export.writing._TOLERANCE", -1.0)
    with pytest.raises(ExportError, match=r"gives samples that differs by .*: it is not written"):
        export_onnx(model, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_all_graphs_are_written_or_none(tmp_path, monkeypatch):
    def write(graph, path, contract):  # in place of a translation, which takes seconds
        if contract.graph == "encode":
            raise ExportError("for the test")
        path.write_bytes(b"a graph")
        return path

    monkeypatch.setattr("diffmedseg.export.writing._write", write)
    with pytest.raises(ExportError, match="for the test"):
        export_onnx(lite(image_size=(16, 16), num_steps=1), tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


def test_other_files_are_refused(tmp_path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"no graph")
    with pytest.raises(ExportError, match=r"damaged.onnx cannot be opened"):
        OnnxSegmenter(damaged)
    with pytest.raises(ExportError, match=r"There is no file .*none.onnx"):
        OnnxSegmenter(tmp_path / "none.onnx")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["diffseg_synthetic.pairs"], "RandomSubsetCRF, which is no part of a graph: export with --no_refinement"),
        (["diffseg_synthetic.pairs", "--no_refinement"], "DiffSegSegmenter cannot be exported"),
        (["medsegdiff-lite_synthetic.tin"], "Did you mean medsegdiff-lite_synthetic.tiny"),
    ],
)
def test_the_command_refuses_in_a_sentence(arguments, message, tmp_path):
    with pytest.raises(SystemExit) as ended:
        main(["export", *arguments, "--format", "onnx", "--out", str(tmp_path / "x.onnx")])
    assert message in str(ended.value)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_entries(tmp_path, capsys):
    path = tmp_path / "x.onnx"
    main(["export", "medsegdiff-lite_synthetic.tiny", "--format", "onnx", "--num_steps", "1", "--out", str(path)])
    assert f"{path} (" in capsys.readouterr().out
    contract = OnnxSegmenter(path).contract
    assert (contract.model, contract.num_steps) == ("medsegdiff-lite_synthetic.tiny", 1)
    assert contract.input.startswith("from [0, 255]: x / 127.5 - 1; then resized")


@torch.no_grad()
@pytest.mark.parametrize("scheduler", [None, UniPCMultistepScheduler()])
@pytest.mark.parametrize("start", [1.0, 0.6])
def test_the_sums_of_a_sampler_give_its_samples(scheduler, start):
    reverse = ReverseProcess(scheduler, start=start)
    model = lite(reverse=reverse, num_steps=5)
    image = torch.from_numpy(images(model, 2, model.image_size))
    drawn = model.draw(image, ["a", "b"], range(3))
    sampler = model.graph_sampler(5)
    noise = {name: torch.from_numpy(v) for name, v in draw_noise(sampler.inputs, model.seed, "ab", range(3)).items()}
    torch.testing.assert_close(sampler.draw(image, noise).samples, drawn.samples, atol=1e-5, rtol=1e-5)
