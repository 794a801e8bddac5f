"""Fine-tuning by the name of a source."""

import json
import shutil

import pytest
import torch
import yaml
from helpers.tiny_run import checkpoints, tiny_data, tiny_model, tiny_trainer

from diffmedseg import load_checkpoint, zoo
from diffmedseg.callbacks import CaseMetrics, WarmupEMA
from diffmedseg.files import read_yaml
from diffmedseg.models import MedSegDiffLite, MedSegDiffSegmenter
from diffmedseg.models.finetuning import initialise
from diffmedseg.zoo import ZooError, file_sha256


@pytest.fixture
def model(run):
    """A model of the run's architecture with new weights, as the command line builds it."""
    config = zoo.pretrained_config(run)
    config["init_args"]["denoiser"] = zoo.pretrained_denoiser(config)
    config["init_args"]["denoiser"]["init_args"] |= {"image_channels": 3, "mask_channels": 1}
    torch.manual_seed(5)
    return zoo.build(config)


def same_weights(a, b):
    return all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())


def tuned_from(model, source):
    """Initialise a model from a source of other weights."""
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.mul_(1.5)
    return initialise(model, source, "the first")


def test_the_network_of_a_source_comes_without_what_the_data_says(run):
    """And without the encoder's weights: nothing is fetched."""
    config = zoo.pretrained_config(run)
    own = {"size": "tiny", "residual": True, "encoder": "resnet18", "dropout": 0.0, "encoder_frozen_norm": False}
    own |= {"encoder_mean": [0.485, 0.456, 0.406], "encoder_std": [0.229, 0.224, 0.225]}  # what the weights expect
    own |= {"decoder_channels": [96, 48, 32, 16, 16]}
    learning = {"encoder_weights": "imagenet", "condition_frozen": True}
    config["init_args"]["denoiser"]["init_args"] |= own | learning
    own |= {"condition_frozen": False}  # the condition network learns, whatever it did in the source
    own |= {"ff_parser": True, "dynamic_encoding": False}
    config["init_args"]["denoiser"]["init_args"] |= {"ff_parser": True}
    config["init_args"]["denoiser"]["init_args"].pop("dynamic_encoding", None)  # then it is the default of the class
    config["init_args"]["denoiser"]["init_args"].pop("patches", None)
    own |= {"patches": "apart"}
    denoiser = zoo.pretrained_denoiser(config)
    assert denoiser["class_path"] == "diffmedseg.models.MedSegDiffLite"
    found = denoiser["init_args"]
    assert {name: found[name] for name in own} == own
    assert found["encoder_weights"] is None
    assert not {"image_channels", "mask_channels"} & set(found)


def test_a_run_its_checkpoint_and_its_entry_give_the_same_weights(run, model, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    zoo.export(run, "lite_synthetic.test", dtype="float32")
    best = run / "checkpoints" / "best.ckpt"
    weights = tmp_path / "zoo" / "lite_synthetic.test" / "model.safetensors"
    for source, file in ((run, best), (best, best), ("lite_synthetic.test", weights)):
        assert zoo.pretrained_config(source) == zoo.pretrained_config(run)
        torch.nn.init.zeros_(model.denoiser.deepest.weight)
        found = zoo.initialise_from(model, source)
        assert same_weights(model.denoiser, load_checkpoint(run).denoiser)
        assert (found.source, found.sha256) == (str(source), file_sha256(file))
        assert found.shares["taken"] == 1


def test_a_checkpoint_of_a_fine_tuned_run_says_what_it_came_from(tmp_path):
    """And so do its scores, once the model is read again from it."""
    source, model, data = tiny_model(), tiny_model(), tiny_data()
    found = tuned_from(model, source)
    scores = CaseMetrics()
    trainer = tiny_trainer(tmp_path, max_steps=3, callbacks=[WarmupEMA(), scores, *checkpoints(tmp_path)])
    trainer.fit(model, data)
    zoo.write_initialisation(model, tmp_path)
    assert json.loads((tmp_path / "initialisation.json").read_text())["source"] == "the first"
    checkpoint = torch.load(tmp_path / "best.ckpt", weights_only=True)
    assert checkpoint["initialisation"] == found.as_dict()
    again = tiny_model()
    trainer.test(again, data, ckpt_path=tmp_path / "best.ckpt", weights_only=True, verbose=False)
    assert scores.summary["policy"]["pretrained"]["source"] == "the first"
    assert again.initialisation == found.as_dict()


def test_the_average_starts_from_the_source(tmp_path):
    """With a learning rate of zero the averaged weights are the source's to the bit."""
    source = tiny_model()
    model = tiny_model(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.0))
    tuned_from(model, source)
    trainer = tiny_trainer(tmp_path, max_steps=3)
    trainer.fit(model, tiny_data())
    assert same_weights(model.denoiser, source.denoiser)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert all(torch.equal(value, source.state_dict()[key]) for key, value in checkpoint["state_dict"].items())


def test_a_model_from_scratch_says_nothing(tmp_path):
    zoo.write_initialisation(tiny_model(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_errors_name_the_remedy(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    zoo.export(run, "lite_synthetic.test", dtype="float32")
    base = MedSegDiffSegmenter(MedSegDiffLite(3, 1, "base"))
    with pytest.raises(ZooError, match=r"Did you mean lite_synthetic\.test\?"):
        zoo.initialise_from(base, "lite_sinthetic.test")
    with pytest.raises(ZooError, match="its size and encoder"):
        zoo.initialise_from(base, "lite_synthetic.test")
    (tmp_path / "run").mkdir()
    with pytest.raises(ZooError, match=r"has no checkpoints/best\.ckpt"):
        zoo.pretrained_config(tmp_path / "run")
    (tmp_path / "file.ckpt").write_text("nothing")
    for broken in (zoo.pretrained_config, lambda path: zoo.initialise_from(base, path)):
        with pytest.raises(ZooError, match=r"file\.ckpt"):
            broken(tmp_path / "file.ckpt")


def test_an_entry_of_a_fine_tuned_run_says_so_on_its_card(run, tmp_path, monkeypatch):
    """The checkpoint keeps it, and so does a model that is loaded from it."""
    tuned = tmp_path / "run"
    shutil.copytree(run, tuned)
    best = tuned / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["initialisation"] = {"source": "some-entry", "sha256": None, "shares": {}}
    torch.save(checkpoint, best)
    assert load_checkpoint(tuned).initialisation["source"] == "some-entry"
    metrics = json.loads((tuned / "metrics.json").read_text())
    metrics["checkpoint"] = file_sha256(best)
    (tuned / "metrics.json").write_text(json.dumps(metrics))
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    zoo.export(tuned, "lite_synthetic.tuned")
    assert "Fine-tuned from some-entry." in (tmp_path / "zoo" / "lite_synthetic.tuned" / "README.md").read_text()


@pytest.mark.parametrize("place", ["", "checkpoints/best.ckpt"])
def test_an_entry_says_what_it_started_from_without_where_that_lay(place, run, tmp_path, monkeypatch):
    tuned, start = tmp_path / "run", tmp_path / "of somebody" / "baseline" / "version_3" / place
    shutil.copytree(run, tuned)
    best = tuned / "checkpoints" / "best.ckpt"
    checkpoint = torch.load(best, weights_only=True)
    checkpoint["initialisation"] = {"source": str(start), "sha256": None, "shares": {}}
    torch.save(checkpoint, best)
    metrics = json.loads((tuned / "metrics.json").read_text())
    metrics["checkpoint"] = file_sha256(best)
    metrics["policy"]["pretrained"] = {"source": str(start)}
    (tuned / "metrics.json").write_text(json.dumps(metrics))
    config = read_yaml(tuned / "config.yaml")
    (tuned / "config.yaml").write_text(yaml.safe_dump(config | {"pretrained": str(start)}))
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    zoo.export(tuned, "lite_synthetic.tuned")
    entry, name = tmp_path / "zoo" / "lite_synthetic.tuned", "/".join(filter(None, ["baseline/version_3", place]))
    assert read_yaml(entry / "run.yaml")["pretrained"] == name
    assert json.loads((entry / "metrics.json").read_text())["policy"]["pretrained"]["source"] == name
    assert f"Fine-tuned from {name}." in (entry / "README.md").read_text()
    for file in (tmp_path / "zoo").rglob("*"):
        assert not file.is_file() or b"of somebody" not in file.read_bytes(), file
