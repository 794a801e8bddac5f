"""What a registry says, zoos that lie elsewhere, and entries that are not what they say."""

import functools
import http.server
import random
import shutil
import threading
from pathlib import Path

import pytest
import torch
import yaml
from helpers.composing import instantiate
from safetensors.torch import load_file, save_file

from diffmedseg import list_pretrained, load_pretrained, zoo
from diffmedseg.cli import main
from diffmedseg.metrics.table import read_cases
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.zoo import Source, ZooError, add_recipe, file_sha256
from diffmedseg.zoo.card import markdown_table
from diffmedseg.zoo.checking import agrees, verify_entry
from diffmedseg.zoo.registry import PICTURE, read_registry
from diffmedseg.zoo.showing import PICTURE_BYTES

ROOT = Path(__file__).parents[1]
NAME = "medsegdiff-lite_synthetic.test"


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "zoo"
    zoo.export(finished_run, NAME, folder)
    return folder


@pytest.fixture
def own_zoo(exported, tmp_path, monkeypatch):
    shutil.copytree(exported, tmp_path / "zoo")
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    return tmp_path / "zoo"


def change(folder, edit):
    path = folder / "registry.yaml"
    content = yaml.safe_load(path.read_text())
    edit(content["entries"])
    path.write_text(yaml.safe_dump(content))


def test_an_entry_says_what_it_takes_and_reached(own_zoo, run):
    entry = Source(own_zoo).entries()[NAME]
    assert entry.input.channels == ["red", "green", "blue"]
    assert entry.input.size == [16, 16]
    assert entry.metrics.cases == len({row.case for row in read_cases(run / "cases.csv")})
    mean, low, high = entry.metrics.scores["lesion"]["dice"]
    assert low <= mean <= high
    assert entry.bytes == (own_zoo / NAME / "model.safetensors").stat().st_size
    assert set(entry.sha256) == {path.name for path in (own_zoo / NAME).iterdir()} - {"README.md"}
    assert set(entry.licences) == {"code", "weights", "data"}
    assert "Not for diagnosis" in entry.intended_use
    assert entry.input.range == [-1.0, 1.0]
    assert [paper for paper in entry.papers if "arXiv 2301.11798" in paper]
    assert all(paper in (own_zoo / NAME / "README.md").read_text() for paper in entry.papers)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda entry: entry.update(colour="red"), "colour"),
        (lambda entry: entry.pop("regions"), "regions"),
        (lambda entry: entry.update(regions=[]), "has no regions"),
        (lambda entry: entry.update(regions=["lesion", "core"]), "a region without Dice"),
        (lambda entry: entry.update(threshold="high"), "threshold"),
        (lambda entry: entry.update(status="wonderful"), "status"),
        (lambda entry: entry.update(metrics=None), "lacks metrics"),
        (lambda entry: entry["sha256"].pop("config.yaml"), "cannot be verified"),
        (lambda entry: entry["sha256"].update({"../outside": "0" * 64}), "outside of the entry"),
        (lambda entry: entry.update(status="recipe"), "is a recipe, but has weights or scores"),
    ],
)
def test_a_registry_of_another_form_is_refused(own_zoo, edit, message):
    change(own_zoo, lambda entries: edit(entries[NAME]))
    with pytest.raises(ZooError, match=message):
        list_pretrained()


def test_a_recipe_is_listed_but_has_no_weights(own_zoo, tmp_path, capsys):
    pair = ["medsegdiff-lite", "isic2018", "--data.root", "/home/somebody/isic2018"]
    with pytest.raises(SystemExit):
        main(["train", *pair, "--print_config"])
    config = tmp_path / "recipe.yaml"
    config.write_text(capsys.readouterr().out)
    main(["zoo", "recipe", str(config), "--name", "a_b.recipe"])
    assert list_pretrained() == [NAME]
    with pytest.raises(ZooError, match="is a recipe without weights"):
        load_pretrained("a_b.recipe")
    for arguments in (["list"], ["verify"], ["table"], ["show", "a_b.recipe"]):
        main(["zoo", *arguments])
    printed = capsys.readouterr().out
    assert "a_b.recipe (recipe)" in printed
    assert "a_b.recipe: a recipe" in printed
    assert "recipe: not trained" in printed
    assert "Nobody has trained it yet" in printed
    assert "3 channels (red, green, blue)" in printed
    assert "somebody" not in (own_zoo / "a_b.recipe" / "run.yaml").read_text()
    entry = Source(own_zoo).entries()["a_b.recipe"]
    assert (entry.status, entry.bytes, entry.metrics, list(entry.sha256)) == ("recipe", 0, None, ["run.yaml"])
    assert entry.papers
    with pytest.raises(ZooError, match="already"):
        add_recipe(config, "a_b.recipe")
    config.write_text("model: {}")
    with pytest.raises(ZooError, match="print_config"):
        add_recipe(config, "c_d.recipe")


def test_verifying_segments_the_stored_input_again(own_zoo, capsys):
    assert verify_entry(Source(own_zoo), NAME) < 1e-3
    main(["zoo", "verify"])
    assert f"{NAME}: as stored" in capsys.readouterr().out
    path = own_zoo / NAME / "example.safetensors"
    stored = load_file(path)
    save_file(stored | {"probability": torch.zeros_like(stored["probability"])}, path)
    change(own_zoo, lambda entries: entries[NAME]["sha256"].update({path.name: file_sha256(path)}))
    with pytest.raises(ZooError, match="does not reproduce its stored output"):
        verify_entry(Source(own_zoo), NAME)
    path.write_bytes(b"nothing")
    change(own_zoo, lambda entries: entries[NAME]["sha256"].update({path.name: file_sha256(path)}))
    with pytest.raises(SystemExit, match="1 of the entries"):
        main(["zoo", "verify"])


def test_the_card_is_shown(own_zoo, capsys):
    main(["zoo", "show", NAME])
    assert f"# {NAME}" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="no entry 'nothing'"):
        main(["zoo", "show", "nothing"])


def test_an_entry_is_reproduced_by_its_own_configuration(own_zoo, tmp_path, capfd, monkeypatch):
    for name in ("DIFFMEDSEG_RUN_FOLDER", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    main(["zoo", "reproduce", NAME, "--runs", str(tmp_path / "runs")])
    assert "the entry states" in capfd.readouterr().out
    rows = read_cases(tmp_path / "runs" / f"reproduce-{NAME}" / "version_0" / "cases.csv")
    entry = Source(own_zoo).entries()[NAME]
    found, stated, within = agrees(entry, rows)
    assert within
    assert found == pytest.approx(stated[0], abs=1e-3)
    change(own_zoo, lambda entries: entries[NAME]["metrics"]["scores"]["lesion"].update(dice=[0.999, 0.998, 1.0]))
    assert not agrees(Source(own_zoo).entries()[NAME], rows)[2]


# Elsewhere.


@pytest.fixture
def address(own_zoo):
    """Serve the zoo."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(own_zoo))
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_a_zoo_at_a_url_is_fetched_once_and_whole(own_zoo, address, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DIFFMEDSEG_ZOO", address)
    assert list_pretrained() == [NAME]
    model = load_pretrained(NAME)
    assert verify_entry(Source(address), NAME) < 1e-3
    shutil.rmtree(own_zoo / NAME)  # it has what it needs
    again = load_pretrained(NAME)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    with pytest.raises(ZooError, match="cannot be written to"):
        zoo.export(own_zoo, "a_b.c")


@pytest.mark.parametrize("damage", [lambda content: content[:-7], lambda content: content[:-1] + b"\0", lambda _: b""])
def test_what_arrives_damaged_is_refused_and_not_kept(own_zoo, address, tmp_path, monkeypatch, damage):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    path = own_zoo / NAME / "model.safetensors"
    whole = path.read_bytes()
    path.write_bytes(damage(whole))
    with pytest.raises(ZooError, match="sha256"):
        zoo.load_entry(Source(address), NAME)
    assert not list((tmp_path / "cache").rglob("*model.safetensors"))
    path.write_bytes(whole)
    assert isinstance(zoo.load_entry(Source(address), NAME), DiffusionSegmenter)


def test_a_zoo_that_cannot_be_reached_is_named_or_known_from_before(own_zoo, address, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    with pytest.raises(ZooError, match="cannot be fetched"):
        Source("http://127.0.0.1:9/zoo").entries()
    source = Source(address)
    zoo.load_entry(source, NAME)
    assert f"# {NAME}" in source.card(NAME)
    for spoil in (lambda path: path.write_text("<html>log in</html>"), Path.unlink):
        spoil(own_zoo / "registry.yaml")
        with pytest.warns(UserWarning, match="last fetched"):
            assert NAME in source.entries()


def test_a_zoo_on_the_hub_is_read_through_its_file_system(own_zoo, tmp_path, monkeypatch):
    """The hub itself needs a network: here fsspec's local file system stands in its place."""
    import fsspec

    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    opened, local = [], fsspec.open

    def from_folder(address, mode):
        opened.append(address)
        return local(f"{own_zoo}/{address.removeprefix('hf://owner/repository/')}", mode)

    monkeypatch.setattr(fsspec, "open", from_folder)
    assert isinstance(zoo.load_entry(Source("hf://owner/repository"), NAME), DiffusionSegmenter)
    assert f"hf://owner/repository/{NAME}/model.safetensors" in opened


def test_fsspec_knows_the_hub():
    import fsspec

    assert fsspec.get_filesystem_class("hf").__name__ == "HfFileSystem"


# Mutated entries.


def test_mutated_entries_load_or_are_refused(own_zoo):
    """With the hash in agreement, so that what reads the files is tried: 120 tries."""
    chooser, refused = random.Random(0), 0
    originals = {file: (own_zoo / NAME / file).read_bytes() for file in ("config.yaml", "model.safetensors")}
    for number in range(120):
        file = ("config.yaml", "config.yaml", "model.safetensors")[number % 3]
        content = bytearray(originals[file])
        reach = len(content) if file == "config.yaml" else 6000  # of weights, the header: all else is numbers
        for _ in range(chooser.choice((1, 3))):
            at, kind = chooser.randrange(min(reach, len(content))), chooser.choice(("flip", "cut", "drop", "repeat"))
            if kind == "flip":
                content[at] ^= 1 << chooser.randrange(8)
            elif kind == "cut":
                del content[at:]
            elif kind == "drop":
                del content[at : at + chooser.randrange(1, 40)]
            else:
                content[at:at] = content[at : at + chooser.randrange(1, 40)]
            content = content or bytearray(b"\0")
        path = own_zoo / NAME / file
        path.write_bytes(content)
        change(own_zoo, lambda entries, path=path: entries[NAME]["sha256"].update({path.name: file_sha256(path)}))
        try:
            assert isinstance(load_pretrained(NAME), DiffusionSegmenter)
        except ZooError as error:
            refused += NAME in str(error)
        path.write_bytes(originals[file])
        change(own_zoo, lambda entries, path=path: entries[NAME]["sha256"].update({path.name: file_sha256(path)}))
    assert 60 < refused < 120


def test_mutated_registries_are_read_or_refused(own_zoo):
    chooser, path = random.Random(1), own_zoo / "registry.yaml"
    original, refused = path.read_bytes(), 0
    for _ in range(200):
        content = bytearray(original)
        for _ in range(chooser.choice((1, 3))):
            at = chooser.randrange(len(content))
            content[at : at + chooser.randrange(0, 6)] = bytes(
                chooser.randrange(256) for _ in range(chooser.randrange(3))
            )
        path.write_bytes(content)
        try:
            read_registry(path)
        except ZooError as error:
            refused += "registry.yaml" in str(error)
    assert 50 < refused < 200


# What is shipped.


def test_shipped_entries_keep_the_schema_and_the_budget():
    entries = read_registry(ROOT / "zoo" / "registry.yaml")
    assert entries
    sizes = {name: sum(f.stat().st_size for f in (ROOT / "zoo" / name).iterdir()) for name in entries}
    assert max(sizes.values()) <= 8e6
    assert sum(sizes.values()) <= 49e6  # of 55 MB of all tracked files
    for name, entry in entries.items():
        files = {path.name for path in (ROOT / "zoo" / name).iterdir()}
        assert files == entry.sha256.keys() | {"README.md"}
        assert PICTURE not in files or (ROOT / "zoo" / name / PICTURE).stat().st_size <= PICTURE_BYTES


@pytest.mark.parametrize("name", read_registry(ROOT / "zoo" / "registry.yaml"))
def test_every_shipped_entry_can_be_trained(name, tmp_path):
    """Its configuration is one of today's, and names no place of another machine."""
    settings = yaml.safe_load((ROOT / "zoo" / name / "run.yaml").read_text())
    of_fit = {key for key in settings if key in {"ckpt_path", "weights_only"}}  # nothing runs here
    kept = {key: value for key, value in settings.items() if key not in of_fit}
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(kept, sort_keys=False))
    built = instantiate([tmp_path / "run.yaml"])
    entry = read_registry(ROOT / "zoo" / "registry.yaml")[name]
    assert built.datamodule.info.title == entry.data
    assert list(built.model.regions) == entry.regions
    root = getattr(built.datamodule, "root", None)
    assert root is None or root == Path("data") / built.datamodule.info.name


@pytest.mark.parametrize("name", list_pretrained())
def test_every_shipped_entry_gives_its_stored_output(name):
    assert verify_entry(Source(ROOT / "zoo"), name) < 1e-3


def test_the_table_has_every_entry_and_its_score():
    """`python -m diffmedseg zoo table` prints it; the page of the zoo in docs/reference is made from it."""
    entries = read_registry(ROOT / "zoo" / "registry.yaml")
    rows = {line.split("`")[1]: line for line in markdown_table(entries).splitlines()[2:]}
    assert rows.keys() == entries.keys()
    for name, entry in entries.items():
        scores = entry.metrics.scores[entry.regions[0]]["dice"] if entry.metrics else None
        assert (f"{scores[0]:.3f}" if scores else "not trained") in rows[name]
