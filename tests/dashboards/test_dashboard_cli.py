import json

import pytest

from diffmedseg.cli import main


def test_the_workspace_is_written_without_login(tmp_path, capsys):
    main(["dashboard", "--entity", "someone", "--name", "mine", "--out", str(tmp_path / "w.json")])
    assert "Wrote" in capsys.readouterr().out
    spec = json.loads((tmp_path / "w.json").read_text())
    names = [section["name"] for section in spec["section"]["panelBankConfig"]["sections"]]
    assert names == ["Training", "Pictures", "Test scores", "Cases", "Trust", "What differs between runs"]
    assert "test/cases" in json.dumps(spec)


def test_each_of_several_regions_has_its_scores(tmp_path):
    main(["dashboard", "--entity", "someone", "--regions", "disc", "cup", "--out", str(tmp_path / "w.json")])
    text = (tmp_path / "w.json").read_text()
    for key in ("test/disc/dice", "test/cup/dice", "test/cup/reliability", "val/dice"):
        assert f'"{key}"' in text
    assert '"test/dice"' not in text


def test_without_login_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(SystemExit, match="wandb login"):
        main(["dashboard", "--entity", "someone"])


def test_project_and_team_are_those_that_runs_are_logged_to(tmp_path, monkeypatch):
    for name in ("WANDB_PROJECT", "WANDB_ENTITY"):
        monkeypatch.delenv(name, raising=False)
    out = tmp_path / "w.json"
    with pytest.raises(SystemExit, match="WANDB_ENTITY"):
        main(["dashboard", "--out", str(out)])
    monkeypatch.setenv("WANDB_PROJECT", "ours")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    built = []
    monkeypatch.setattr("diffmedseg.cli.dashboard.build_workspace", lambda *given: built.append(given[:2]))
    monkeypatch.setattr("diffmedseg.cli.dashboard.workspace_json", str)
    main(["dashboard", "--out", str(out)])
    main(["dashboard", "--entity", "me", "--project", "mine", "--out", str(out)])
    assert built == [("team", "ours"), ("me", "mine")]


def test_pictures_have_distances_in_pixels_and_volumes_in_mm(tmp_path):
    main(["dashboard", "--entity", "someone", "--out", str(tmp_path / "w.json")])
    text = (tmp_path / "w.json").read_text()
    for key in ("test/hd95", "test/hd95_pixels"):
        assert f'"{key}"' in text
