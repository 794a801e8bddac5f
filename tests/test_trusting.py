"""Configurations of runs that come from others: nothing that they name is imported before it is trusted."""

import shutil

import pytest
import yaml

from diffmedseg.cli import main

PLACES = {
    "callback": lambda c: c["trainer"]["callbacks"].append({"class_path": "evil.Thing"}),
    "callback by its bare name": lambda c: c["trainer"]["callbacks"].append("evil.Thing"),
    "strategy": lambda c: c["trainer"].update(strategy="evil.Thing"),
    "logger": lambda c: c.update(logger="evil.Thing"),
    "optimiser": lambda c: c["model"]["init_args"].update(optimizer="evil.Thing"),
    "fusion": lambda c: c["model"]["init_args"].update(fusion="evil.Thing"),
    "network": lambda c: c["model"]["init_args"]["denoiser"].update(class_path="evil.Thing"),
    "model": lambda c: c.update(model="evil.Thing"),
    "data": lambda c: c.update(data="evil.Thing"),
    "data in another file": lambda c: c.update(data="evil.yaml"),
}


@pytest.mark.parametrize("place", PLACES)
def test_a_foreign_name_in_a_runs_configuration_is_refused_before_it_is_imported(place, run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Thing: pass\n")
    (tmp_path / "evil.yaml").write_text("class_path: evil.Thing\n")
    config = yaml.safe_load((run / "config.yaml").read_text())
    PLACES[place](config)
    (run / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit, match=r"--trust evil"):
        main(["evaluate", str(run), f"--runs={tmp_path / 'runs'}"])
    assert not (tmp_path / "imported").exists()
    assert not (tmp_path / "runs").exists()


def test_a_calibration_that_names_a_foreign_class_is_refused(run, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'imported')!r}, 'w')\nclass Thing: pass\n")
    main(["calibrate", str(run)])
    path = run / "calibration.yaml"
    settings = yaml.safe_load(path.read_text())
    settings["model"]["init_args"]["calibration"]["class_path"] = "evil.Thing"
    path.write_text(yaml.safe_dump(settings))
    with pytest.raises(SystemExit, match=r"--trust evil"):
        main(["evaluate", str(run), f"--runs={tmp_path / 'runs'}"])
    assert not (tmp_path / "imported").exists()


def test_what_every_run_names_is_trusted(run, tmp_path):
    shutil.copytree(run, tmp_path / "moved")
    config = tmp_path / "moved" / "config.yaml"
    settings = yaml.safe_load(config.read_text()) | {"experiment": "lite.seed"}  # text, though it looks like a class
    config.write_text(yaml.safe_dump(settings))
    main(["evaluate", str(tmp_path / "moved"), f"--runs={tmp_path / 'runs'}"])
    assert list((tmp_path / "runs").rglob("cases.csv"))
