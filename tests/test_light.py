"""What has to start at once does not import torch, and gives the same as what does."""

import json
import subprocess
import sys

import pytest
from helpers.tiny_run import EXPERIMENTS

import diffmedseg
import diffmedseg.data
import diffmedseg.models
import diffmedseg.zoo
from diffmedseg.data.catalogue import dataset_info
from diffmedseg.data.configured import build_data
from diffmedseg.experiments import data_config
from diffmedseg.zoo.registry import Input
from diffmedseg.zoo.typed import as_type

HEAVY = ("torch", "lightning", "monai", "diffusers", "SimpleITK", "matplotlib", "wandb")
DATA = sorted(path.stem for path in (EXPERIMENTS / "data").glob("*.yaml"))

READ_REGISTRY = """
import diffmedseg.zoo.registry
from diffmedseg.zoo import current_source
from diffmedseg.zoo.card import markdown_table
entries = current_source().entries()
assert entries
assert markdown_table(entries)
assert current_source().card(min(entries))
assert diffmedseg.list_pretrained()
"""
DATA_FACTS = f"""
from diffmedseg.data.catalogue import dataset_info, markdown_table
from diffmedseg.experiments import data_config
assert markdown_table()
for path in {[str(EXPERIMENTS / "data" / f"{name}.yaml") for name in DATA]}:
    assert dataset_info(data_config(path)).title
"""


@pytest.mark.parametrize(
    ("script", "also"),
    [("import diffmedseg", ("numpy",)), (READ_REGISTRY, ("numpy",)), (DATA_FACTS, ())],
    ids=["import", "zoo list", "data list"],
)
def test_listing_does_not_import_torch(script, also):
    script += f"\nimport json, sys\nprint(json.dumps(sorted(set({[*HEAVY, *also]}) & sys.modules.keys())))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == []


def test_these_commands_do_not_import_torch():
    """One after another in one process: whichever imports it first is named."""
    commands = [
        "--help", "--version", "zoo list", "zoo table", "data list", "data list chase", "info --json", "train --help",
        "predict --help", "data --help", "zoo --help", "score --help", "evaluate --help",
    ]  # fmt: skip
    script = (
        "import sys\nfrom diffmedseg.cli.main import main\n"
        f"for command in {commands}:\n"
        "    print('command', command)\n"
        "    try:\n        main(command.split())\n    except SystemExit as end:\n        assert not end.code, command\n"
        "    assert 'torch' not in sys.modules and 'lightning' not in sys.modules, command"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.split("command ")
    assert len([said for said in printed if len(said.splitlines()) > 1]) >= len(commands)


@pytest.mark.parametrize("name", DATA)
def test_the_facts_of_a_data_set_are_those_of_its_module(name):
    config = data_config(name)
    assert dataset_info(config) == build_data(config).info


@pytest.mark.parametrize("name", ["folder", "brats", "synthetic"])
def test_settings_change_the_facts(name, tmp_path):
    settings = {
        "folder": {"root": str(tmp_path), "grey": True, "nested": True, "tubular": True, "windows": "windows.csv"},
        "brats": {"regions": ["tumour_core"]},
        "synthetic": {"nested": True, "raters": 2},
    }[name]
    for rater in "ab":
        (tmp_path / f"masks_{rater}").mkdir()
    config = data_config(name)
    before = dataset_info(config)
    config["init_args"] |= settings
    info = dataset_info(config)
    assert info == build_data(config).info != before
    assert info.raters == (1 if name == "brats" else 2)


def test_a_class_that_is_not_of_the_project_is_built(tmp_path, monkeypatch):
    (tmp_path / "own_data.py").write_text(
        "from diffmedseg.data import PictureDataModule, SyntheticDataModule\n"
        "from diffmedseg.data import FileNames\n"
        "class OwnData(SyntheticDataModule):\n"
        "    def __init__(self) -> None:\n"
        "        super().__init__(raters=3)\n"
        "class OwnNames(FileNames):\n"
        "    @property\n"
        "    def regions(self):\n"
        "        return ('own',)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert dataset_info({"class_path": "own_data.OwnData", "init_args": {}}).raters == 3
    config = data_config("chase")
    config["init_args"]["layout"]["class_path"] = "own_data.OwnNames"
    assert dataset_info(config).regions == ("own",)


@pytest.mark.parametrize("package", [diffmedseg, diffmedseg.data, diffmedseg.models, diffmedseg.zoo])
def test_every_public_name_is_there(package):
    assert set(package.__all__) <= set(dir(package))
    assert all(getattr(package, name) is not None for name in package.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
        _ = package.nonesuch


def test_subpackages_are_attributes():
    script = "import diffmedseg; print(diffmedseg.models.MedSegDiffSegmenter.__name__)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=300)
    assert done.stdout == "MedSegDiffSegmenter\n", done.stderr


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        (int, True, "x is True; expected int"),
        (float, "1", "x is '1'; expected float"),
        (list[int], [1, "2"], r"x\[1\] is '2'; expected int"),
        (dict[str, list[float]], {"a": [1, None]}, r"x\.a\[1\] is None"),
        (dict[str, int], {1: 1}, "expected dict"),
        (Input, {"nonesuch": 1}, "x has nonesuch, which is not known"),
        (Input, {"channels": []}, "x has no normalisation, size"),
        (Input, [], "expected Input"),
    ],
)
def test_a_value_of_another_type_is_refused(kind, value, message):
    with pytest.raises(ValueError, match=message):
        as_type(kind, value, "x")


def test_whole_numbers_are_floats_where_these_are_declared():
    assert as_type(dict[str, list[float]] | None, {"a": [1, 0.5]}, "x") == {"a": [1.0, 0.5]}
    assert as_type(int | None, None, "x") is None
