import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import diffmedseg
from diffmedseg import list_pretrained, load_pretrained, zoo
from diffmedseg.cli import main
from diffmedseg.zoo import ZooError
from diffmedseg.zoo.card import markdown_table
from diffmedseg.zoo.front_matter import front_matter

ROOT = Path(__file__).parents[1]
IMAGE = torch.rand(1, 3, 40, 50, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture
def own_zoo(run, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    zoo.export(run, "medsegdiff-lite_synthetic.test", dtype="float32")
    return tmp_path / "zoo"


def test_export_and_load_give_the_averaged_model(own_zoo, run):
    assert list_pretrained() == ["medsegdiff-lite_synthetic.test"]
    model = load_pretrained("medsegdiff-lite_synthetic.test")
    assert not model.training
    trained = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained["state_dict"][name])
    for name, value in trained["hyper_parameters"].items():
        if name in {"num_samples", "num_steps", "threshold", "seed"}:
            assert getattr(model, name) == value
    assert model.segment(IMAGE).mask.shape == (1, 1, 40, 50)
    assert isinstance(model.optimizer([torch.nn.Parameter(torch.zeros(1))]), torch.optim.AdamW)


def test_a_card_says_what_was_measured(own_zoo):
    card = (own_zoo / "medsegdiff-lite_synthetic.test" / "README.md").read_text()
    for text in ("not for diagnosis", "| lesion | dice |", "Apache-2.0", "load_pretrained", "3 cases"):
        assert text in card


def test_an_entry_trains_again_and_names_no_place_of_this_machine(own_zoo, run):
    text = (own_zoo / "medsegdiff-lite_synthetic.test" / "run.yaml").read_text()
    assert str(run.parent.parent) not in text
    settings, original = yaml.safe_load(text), yaml.safe_load((run / "config.yaml").read_text())
    assert settings["model"] == original["model"]
    assert settings["trainer"] == original["trainer"]


def test_half_precision_halves_the_file(own_zoo, run):
    whole, half = (own_zoo / name / "model.safetensors" for name in ("medsegdiff-lite_synthetic.test", "x_y.half"))
    zoo.export(run, "x_y.half")
    assert half.stat().st_size < 0.55 * whole.stat().st_size
    assert next(load_pretrained("x_y.half").denoiser.parameters()).dtype == torch.float32


@pytest.mark.parametrize("file", ["model.safetensors", "config.yaml", "cases.csv", "example.safetensors", "cases.png"])
def test_a_changed_file_is_refused(own_zoo, file):
    path = own_zoo / "medsegdiff-lite_synthetic.test" / file
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ZooError, match="sha256"):
        load_pretrained("medsegdiff-lite_synthetic.test")


def test_a_missing_file_or_entry_is_named(own_zoo):
    (own_zoo / "medsegdiff-lite_synthetic.test" / "config.yaml").unlink()
    with pytest.raises(ZooError, match=r"config\.yaml is missing"):
        load_pretrained("medsegdiff-lite_synthetic.test")
    with pytest.raises(ZooError, match=r"There are: medsegdiff-lite_synthetic\.test"):
        load_pretrained("nothing")


def registry(folder, change):
    path = folder / "registry.yaml"
    content = yaml.safe_load(path.read_text())
    change(content)
    path.write_text(yaml.safe_dump(content))


def test_what_cannot_be_verified_is_refused(own_zoo):
    name = "medsegdiff-lite_synthetic.test"
    registry(own_zoo, lambda content: content["entries"][name]["sha256"].pop("config.yaml"))
    with pytest.raises(ZooError, match="cannot be verified"):
        load_pretrained(name)


def test_a_registry_of_another_version_or_damaged_is_refused(own_zoo):
    registry(own_zoo, lambda content: content.update(version=99))
    with pytest.raises(ZooError, match="version 99"):
        list_pretrained()
    (own_zoo / "registry.yaml").write_text("[")
    with pytest.raises(ZooError, match="damaged"):
        list_pretrained()


@pytest.mark.parametrize("name", ["../outside", "a/../../outside"])
def test_a_name_that_leaves_the_zoo_is_refused(own_zoo, name, run):
    registry(
        own_zoo, lambda content: content["entries"].update({name: content["entries"]["medsegdiff-lite_synthetic.test"]})
    )
    with pytest.raises(ZooError, match="leaves"):
        load_pretrained(name)
    with pytest.raises(ZooError, match="name"):
        zoo.export(run, name)


@pytest.mark.parametrize(
    "path", ["os.system", "subprocess.Popen", "diffmedseg.zoo.export", "diffmedseg.models.segmenter.time.sleep"]
)
def test_classes_outside_the_list_are_never_built(path):
    with pytest.raises(ZooError, match="does not build"):
        zoo.build(
            {"class_path": "diffmedseg.models.MedSegDiffSegmenter", "init_args": {"denoiser": {"class_path": path}}}
        )


def test_names_are_not_reused_and_unfinished_runs_refused(own_zoo, run, tmp_path):
    with pytest.raises(ZooError, match="already"):
        zoo.export(run, "medsegdiff-lite_synthetic.test")
    with pytest.raises(ZooError, match="not a finished run"):
        zoo.export(tmp_path, "a_b.c")
    assert {path.name for path in own_zoo.iterdir()} == {"registry.yaml", "medsegdiff-lite_synthetic.test"}


def test_scores_of_another_checkpoint_than_the_one_that_would_be_shipped_are_refused(run, tmp_path):
    """A run that went on, and was stopped before its new best checkpoint was tested."""
    shutil.copy(run / "checkpoints" / "last.ckpt", run / "checkpoints" / "best.ckpt")
    with pytest.raises(ZooError, match=r"scores of another checkpoint than .*best\.ckpt.*--ckpt_path last"):
        zoo.export(run, "x_y.z", tmp_path / "zoo")
    assert not list_pretrained_in(tmp_path / "zoo")


def test_scores_of_masks_that_a_callback_changed_are_refused(run, tmp_path):
    """The entry would give other masks than those that were scored."""
    path = run / "metrics.json"
    content = json.loads(path.read_text())
    content["policy"]["changed_by"] = ["MultiSampleEnsemble"]
    path.write_text(json.dumps(content))
    with pytest.raises(ZooError, match="MultiSampleEnsemble"):
        zoo.export(run, "x_y.z", tmp_path / "zoo")


def test_scores_on_pseudo_masks_are_named_in_registry_card_and_table(run, tmp_path):
    path = run / "metrics.json"
    content = json.loads(path.read_text())
    for origin in ("", "labels: pseudo masks of luminance"):
        content["policy"] |= {"pseudo_masks": origin} if origin else {}
        path.write_text(json.dumps(content))
        name = "student_data.pseudo" if origin else "student_data.true"
        folder = zoo.export(run, name, tmp_path / "zoo", pictures=False)
        entry = zoo.Source(tmp_path / "zoo").entries()[name]
        assert entry.metrics.pseudo_masks == origin
        card = (folder / "README.md").read_text()
        assert ("pseudo masks, not with true masks" in card) == bool(origin)
        assert origin in card
        assert ("pseudo masks" in markdown_table({name: entry})) == bool(origin)
        assert ("test (pseudo masks)" in front_matter(name, entry)) == bool(origin)


def list_pretrained_in(folder):
    return [path.name for path in folder.iterdir() if not path.name.startswith(".")] if folder.exists() else []


def test_two_exports_at_the_same_time_are_both_registered(run, tmp_path, monkeypatch):
    first = True

    def meanwhile(*arguments):
        nonlocal first
        if first:
            first = False
            zoo.export(run, "other_entry.a", tmp_path / "zoo")
        return "not drawn"

    monkeypatch.setattr("diffmedseg.zoo.exporting.show_cases", meanwhile)
    zoo.export(run, "x_y.z", tmp_path / "zoo")
    assert set(zoo.Source(tmp_path / "zoo").entries()) == {"other_entry.a", "x_y.z"}


@pytest.mark.parametrize("name", ["plain", "model.tag", "model_data", "model_.tag"])
def test_a_name_says_model_data_and_tag(run, tmp_path, name):
    with pytest.raises(ZooError, match=r"model_data\.tag"):
        zoo.export(run, name, tmp_path / "zoo")


def test_the_command_line_exports_and_lists(run, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    main(["zoo", "export", str(run), "--name", "m_d.t"])
    main(["zoo", "list"])
    assert "m_d.t" in capsys.readouterr().out


@pytest.mark.parametrize("name", list_pretrained())
def test_every_shipped_entry_loads_and_segments(name):
    model = load_pretrained(name)
    result = model.segment(IMAGE[:, : len(model.channels)], num_samples=2, num_steps=2)
    assert result.mask.shape == (1, len(model.regions), 40, 50)


def test_there_is_a_shipped_entry_and_it_segments_what_it_was_trained_on():
    from diffmedseg.data.synthetic import SyntheticStore
    from diffmedseg.metrics import dice

    name = next(name for name in list_pretrained() if name.startswith("medsegdiff_synthetic"))
    store = SyntheticStore("test", 12, (64, 64), 4, False)
    lesions = [i for i in range(12) if store.masks(i).flatten(1).any(1).all()]
    result = load_pretrained(name).segment(torch.stack([store.image(i) for i in lesions]), num_samples=4)
    core = torch.stack([store.mode_masks(i, (64, 64))[0] for i in lesions]).bool()
    halo = torch.stack([store.mode_masks(i, (64, 64))[1] for i in lesions]).bool()
    assert torch.maximum(dice(result.mask, core), dice(result.mask, halo)).mean() > 0.85


def test_public_names():
    assert set(diffmedseg.__all__) == {
        *("Recipe", "recipe", "list_datasets", "list_models", "list_presets"),
        *("Segmentation", "list_pretrained", "load_checkpoint", "load_model", "load_pretrained"),
    }
