"""Publishing entries, to a server that speaks as much of the Hugging Face Hub's API as uploads need."""

import shutil
from dataclasses import replace

import pytest
import torch
from huggingface_hub import ModelCard

from diffmedseg import zoo
from diffmedseg.cli import main
from diffmedseg.zoo import Source, ZooError
from diffmedseg.zoo.pushing import push
from diffmedseg.zoo.registry import raise_version, write_registry

NAME, TARGET = "medsegdiff-lite_synthetic.test", "hf://owner/lite"


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "zoo"
    for name in (NAME, "medsegdiff-lite_synthetic.other"):
        zoo.export(finished_run, name, folder, dtype="float32")
    return folder


@pytest.fixture
def own_zoo(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    return shutil.copytree(exported, tmp_path / "zoo")


def test_what_is_pushed_is_what_is_loaded(own_zoo, hub, capsys):
    main(["zoo", "push", NAME, TARGET])
    assert f"Uploaded to {TARGET}" in capsys.readouterr().out
    files = hub.repositories["owner/lite"]
    entry, published = Source(own_zoo).entries()[NAME], Source(TARGET)
    assert published.entries() == {NAME: entry}
    folder, _ = published.verified(NAME)  # by the hashes of the registry
    assert {path.name for path in folder.iterdir() if path.name in entry.sha256} == entry.sha256.keys()
    assert published.card(NAME) == (own_zoo / NAME / "README.md").read_text()
    own, loaded = (zoo.load_entry(source, NAME) for source in (Source(own_zoo), published))
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in own.state_dict().items())
    front = ModelCard(files["README.md"].decode())
    assert front.data.library_name == "diffmedseg"
    assert f"]({NAME}/cases.png)" in front.text


def test_a_new_version_replaces_the_old_one_and_its_files(own_zoo, hub):
    """Also in a process that asked before, and remembers that there was no repository."""
    with pytest.raises(ZooError, match="cannot be fetched"):
        Source(TARGET).entries()
    push(Source(own_zoo), NAME, TARGET)
    hub.repositories["owner/lite"][f"{NAME}/gone.txt"] = b"of a version before"
    assert Source(TARGET).entries()[NAME].version == "1.0.0"
    entries = Source(own_zoo).entries()
    changed = {NAME: raise_version(replace(entries[NAME], notes="More is known. " * 40), "Notes.")}
    write_registry(own_zoo / "registry.yaml", entries | changed)
    push(Source(own_zoo), NAME, TARGET)
    assert f"{NAME}/gone.txt" not in hub.repositories["owner/lite"]
    assert Source(TARGET).entries() == changed


def test_a_dry_run_asks_nobody(own_zoo, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    main(["zoo", "push", NAME, TARGET, "--dry_run"])
    printed = capsys.readouterr().out
    assert f"Nothing was uploaded to {TARGET}" in printed
    assert f"{NAME}/model.safetensors" in printed
    assert not hub.requests


def failing(own_zoo, message, target=TARGET):
    with pytest.raises(ZooError, match=message) as error:
        push(Source(own_zoo), NAME, target)
    assert "\n" not in str(error.value)


def test_without_a_token_nothing_is_asked(own_zoo, hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    failing(own_zoo, "no token of the Hugging Face Hub. Set HF_TOKEN")
    assert not hub.requests


def test_a_token_that_may_not_write_is_refused(own_zoo, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    failing(own_zoo, "refuses the token for owner/lite")
    assert not hub.repositories


@pytest.mark.parametrize(
    "files", [{"weights.bin": b"0"}, {"README.md": b"another model"}, {"other_entry.a/config.yaml": b""}]
)
def test_a_repository_with_other_files_is_left_alone(own_zoo, hub, files):
    hub.repositories["owner/lite"] = dict(files)
    failing(own_zoo, f"owner/lite has other files, such as {next(iter(files))}")
    assert hub.repositories["owner/lite"] == files


def test_other_content_needs_a_higher_version(own_zoo, hub):
    push(Source(own_zoo), NAME, TARGET)
    entries = Source(own_zoo).entries()
    write_registry(own_zoo / "registry.yaml", entries | {NAME: replace(entries[NAME], notes="Changed.")})
    failing(own_zoo, r"has version 1\.0\.0 of .*, with other content\. .* higher --version")


def test_a_hub_that_cannot_be_reached_is_named(own_zoo, hub, monkeypatch):
    def refuse(*_):
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.HfApi.list_repo_files", refuse)  # which tries again for 20 s
    failing(own_zoo, rf"cannot be uploaded to {hub.address} \(no route to host\)\. Check the name and the network")


def test_without_a_network_nothing_is_tried(own_zoo, hub, monkeypatch):
    monkeypatch.setattr("diffmedseg.zoo.pushing.hub_is_unknown", lambda: True)
    failing(own_zoo, rf"cannot be uploaded: the network does not know {hub.address}")
    assert not hub.requests


@pytest.mark.parametrize("target", ["owner/lite", "hf://lite", "hf://a/b/c", "https://a/b", "hf://a/b c"])
def test_a_target_that_is_no_repository_is_refused(own_zoo, target):
    failing(own_zoo, r"no repository of the Hugging Face Hub\. Give hf://owner/name", target)
