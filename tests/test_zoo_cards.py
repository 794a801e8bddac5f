"""Cards, their front matter, versions, filters and retirement."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData

from diffmedseg import load_pretrained, zoo
from diffmedseg.cli import main
from diffmedseg.data.info import is_open
from diffmedseg.metrics.table import read_cases, write_cases
from diffmedseg.versions import installed_versions
from diffmedseg.zoo import Source, ZooError
from diffmedseg.zoo.card import write_card
from diffmedseg.zoo.changing import replace_files, retire, rewrite_card
from diffmedseg.zoo.front_matter import front_matter
from diffmedseg.zoo.registry import raise_version, read_registry, read_retired, write_registry
from diffmedseg.zoo.source import filter_entries

SHIPPED = Path(__file__).parents[1] / "zoo"
ENTRIES = read_registry(SHIPPED / "registry.yaml")
NAME, OTHER = "medsegdiff-lite_synthetic.test", "medsegdiff-lite_synthetic.other"


@pytest.fixture(scope="module")
def exported(finished_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported") / "zoo"
    for name in (NAME, OTHER):
        zoo.export(finished_run, name, folder)
    return folder


@pytest.fixture
def own_zoo(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    return shutil.copytree(exported, tmp_path / "zoo")


# Cards.


@pytest.mark.parametrize("name", ENTRIES)
def test_shipped_cards_are_those_of_the_registry_and_the_hub_reads_them(name, tmp_path):
    """`python -m diffmedseg zoo card` writes them."""
    folder, entry = shutil.copytree(SHIPPED / name, tmp_path / name), ENTRIES[name]
    write_card(folder, name, entry)
    text = (SHIPPED / name / "README.md").read_text()
    assert (folder / "README.md").read_text() == text
    card = ModelCard(text, ignore_metadata_errors=False)
    assert isinstance(card.data, ModelCardData)
    assert (card.data.library_name, card.data.pipeline_tag) == ("diffmedseg", "image-segmentation")
    assert card.data.license == ("apache-2.0" if is_open(entry.licences["data"]) else "other")
    assert card.data.datasets == [entry.dataset]
    stated = {(r.metric_type, r.metric_name, r.metric_value) for r in card.data.eval_results or []}
    scores = entry.metrics.scores if entry.metrics else {}
    own = {(s, f"{s} ({region})", found[0]) for region, by in scores.items() for s, found in by.items()}
    assert stated == {one for one in own if math.isfinite(one[2])}


@pytest.mark.parametrize("name", [name for name, entry in ENTRIES.items() if entry.status == "trained"])
def test_shipped_cards_show_images_of_open_data_and_name_their_source(name):
    text, entry = (SHIPPED / name / "README.md").read_text(), ENTRIES[name]
    if "cases.png" not in entry.sha256:
        assert not is_open(entry.licences["data"]) or name == "medsegdiff_synthetic.tiny"
        assert "cases.png)" not in text
        return
    shown = text.partition("](cases.png)")[2].partition("##")[0].replace("\n", " ")
    assert is_open(entry.licences["data"])
    for fact in (entry.data, entry.citation, entry.url, f"licence {entry.licences['data']}"):
        assert fact in shown


def test_scores_that_are_not_finite_are_left_out_of_the_front_matter():
    name, entry = next((name, entry) for name, entry in ENTRIES.items() if entry.metrics)
    scores = {entry.regions[0]: {"dice": [0.5, 0.4, 0.6], "hd95": [math.inf, 1.0, math.inf], "nsd": [math.nan] * 3}}
    changed = replace(entry, metrics=replace(entry.metrics, scores=scores))
    card = ModelCard(front_matter(name, changed), ignore_metadata_errors=False)
    assert [result.metric_type for result in card.data.eval_results] == ["dice"]


def test_a_new_entry_says_its_version_packages_and_storage(own_zoo, run):
    entry, text = Source(own_zoo).entries()[NAME], (own_zoo / NAME / "README.md").read_text()
    assert (entry.version, entry.changelog) == ("1.0.0", ["1.0.0: First version."])
    assert entry.exported_with == entry.trained_with == installed_versions()
    assert {"torch", "lightning", "diffusers", "segmentation-models-pytorch", "timm"} <= entry.exported_with.keys()
    assert entry.steps == torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["global_step"] > 0
    for fact in (
        "Version 1.0.0.",
        f"| torch | {entry.trained_with['torch']} |",
        "- 1.0.0: First version.",
        f"optimiser step {entry.steps}",
    ):
        assert fact in text
    assert "Parameters are stored as float16." in text


def test_show_leaves_out_what_is_for_the_hub(own_zoo, capsys):
    main(["zoo", "show", NAME])
    assert capsys.readouterr().out.startswith(f"# {NAME}\n")


def test_cards_are_written_again_from_the_registry(own_zoo):
    before = (own_zoo / NAME / "README.md").read_text()
    (own_zoo / NAME / "README.md").write_text("another")
    rewrite_card(Source(own_zoo), NAME)
    assert (own_zoo / NAME / "README.md").read_text() == before
    assert load_pretrained(NAME)


def test_a_card_counts_the_cases_of_scores_that_some_cases_lack(own_zoo):
    entry = read_registry(own_zoo / "registry.yaml")[NAME]
    write_card(own_zoo / NAME, NAME, entry)
    assert "fewer cases" not in (own_zoo / NAME / "README.md").read_text()
    rows = read_cases(own_zoo / NAME / "cases.csv")
    write_cases([replace(rows[0], diversity=math.nan), *rows[1:]], own_zoo / NAME / "cases.csv")
    write_card(own_zoo / NAME, NAME, entry)
    assert f"(diversity of {rows[0].region}: {entry.metrics.cases - 1})" in (own_zoo / NAME / "README.md").read_text()


# Versions.


def test_an_entry_is_replaced_by_a_higher_version_alone(own_zoo, run):
    for version in ("1.0.0", "0.9.9"):
        with pytest.raises(ZooError, match=r"already, of version 1\.0\.0"):
            zoo.export(run, NAME, version=version)
    with pytest.raises(ZooError, match="Give three numbers"):
        zoo.export(run, NAME, version="2")
    zoo.export(run, NAME, version="1.0.10", change="Other weights.", dtype="float32")
    entry = Source(own_zoo).entries()[NAME]
    assert entry.changelog == ["1.0.10: Other weights.", "1.0.0: First version."]
    assert load_pretrained(NAME)
    zoo.export(run, NAME, version="1.1.0")


def test_changed_files_raise_the_version_and_keep_the_rest(own_zoo):
    source = Source(own_zoo)
    old, picture = source.entries()[NAME], (own_zoo / OTHER / "cases.png").read_bytes()
    replace_files(source, NAME, {"cases.png": picture + b"\0"}, "Another picture.")
    new = source.entries()[NAME]
    assert (new.version, new.changelog[0]) == ("1.0.1", "1.0.1: Another picture.")
    assert {file for file in old.sha256 if new.sha256[file] != old.sha256[file]} == {"cases.png"}
    source.verified(NAME)
    assert not list((own_zoo / NAME).glob("*.before"))


def test_versions_are_compared_as_numbers():
    entry = replace(next(iter(ENTRIES.values())), version="1.2.9", changelog=["1.2.9: x"])
    assert raise_version(entry, "y").changelog == ["1.2.10: y", "1.2.9: x"]


@pytest.mark.parametrize("version", ["1.0", "v1.0.0", "1.0.0-beta", "1.0.0.0", "", "1.0.٣"])
def test_a_version_of_another_form_is_refused(own_zoo, version):
    path = own_zoo / "registry.yaml"
    content = yaml.safe_load(path.read_text())
    content["entries"][NAME]["version"] = version
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(ZooError, match="expected three numbers"):
        read_registry(path)


def test_registries_of_before_are_read(own_zoo):
    """Those of version 2, whose entries had no version."""
    path = own_zoo / "registry.yaml"
    content = yaml.safe_load(path.read_text())
    later = (
        "version",
        "changelog",
        "dataset",
        "url",
        "steps",
        "notes",
        "unpictured",
        "storage",
        "trained_with",
        "exported_with",
    )
    for entry in content["entries"].values():
        for key in later:
            del entry[key]
    del content["retired"]
    path.write_text(yaml.safe_dump(content | {"version": 2}))
    assert load_pretrained(NAME)
    rewrite_card(Source(own_zoo), NAME)


# Filters.


@pytest.mark.parametrize(
    ("data", "task", "expected"),
    [
        ("isic", None, {"isic2017", "isic2018"}),
        ("ISIC 2017", None, {"isic2017"}),
        ("chase", "vessel", {"chase"}),
        ("TCGA", None, {"lgg"}),
        (None, "lesion", {"isic2017", "isic2018", "synthetic"}),
        (None, "Whole tumour", {"brats", "brats2015"}),
        (None, "tumour", {"brats", "brats2015", "lgg"}),
    ],
)
def test_entries_are_found_by_data_and_task(data, task, expected):
    found = filter_entries(ENTRIES, data, task)
    assert {entry.dataset for entry in found.values()} == expected
    assert found.keys() == {name for name, entry in ENTRIES.items() if entry.dataset in expected}


@pytest.mark.parametrize(
    ("data", "task", "message"),
    [
        ("refuge", None, "data set 'refuge'. There are: BraTS 2015, .*ISIC 2017"),
        (None, "polyp", "task 'polyp'. There are: .*lesion, .*vessels"),
        ("", None, "There are"),
        ("chase", "lesion", "data set 'chase' and the task 'lesion'"),
    ],
)
def test_a_filter_without_entries_says_what_there_is(data, task, message):
    with pytest.raises(ZooError, match=message):
        filter_entries(ENTRIES, data, task)


def test_lists_are_for_programs_too(monkeypatch, capsys):
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(SHIPPED))
    main(["zoo", "list", "--data", "lgg", "--json"])
    found = json.loads(capsys.readouterr().out, parse_constant=lambda text: pytest.fail(f"{text} is no JSON"))
    assert [one["name"] for one in found] == sorted(name for name in ENTRIES if "lgg" in name)
    assert found[0]["metrics"]["scores"]["tumour"]["dice"][1:] == [None, None]  # of one case
    assert {"version", "changelog", "dataset", "regions", "licences"} <= found[0].keys()


# Retirement.


def test_a_retired_entry_leads_to_its_successor(own_zoo, capsys):
    main(["zoo", "retire", NAME, "--superseded_by", OTHER, "--reason", "It has a higher Dice."])
    assert not (own_zoo / NAME).exists()
    assert list(Source(own_zoo).entries()) == [OTHER]
    expected = f"The entry {NAME} was superseded by {OTHER}: It has a higher Dice. Load that entry."
    for load in (load_pretrained, zoo.load_model, zoo.pretrained_config):
        with pytest.raises(ZooError) as error:
            load(NAME)
        assert str(error.value) == expected
    assert load_pretrained(OTHER)


def test_successors_of_successors_are_named(own_zoo, run):
    source = Source(own_zoo)
    third = "medsegdiff-lite_synthetic.third"
    retire(source, NAME, OTHER, "First.")
    zoo.export(run, third)  # which keeps what is retired
    retire(source, OTHER, third)
    assert {name: one.superseded_by for name, one in read_retired(own_zoo / "registry.yaml").items()} == {
        NAME: third,
        OTHER: third,
    }
    with pytest.raises(ZooError, match="which is retired"):
        zoo.export(run, NAME)


def test_what_cannot_replace_an_entry_is_refused(own_zoo):
    source, entries = Source(own_zoo), Source(own_zoo).entries()
    with pytest.raises(ZooError, match="cannot replace"):
        retire(source, NAME, NAME)
    write_registry(
        own_zoo / "registry.yaml", entries | {OTHER: replace(entries[OTHER], status="recipe", metrics=None, bytes=0)}
    )
    with pytest.raises(ZooError, match=r"\(recipe, lesion\) cannot replace"):
        retire(source, NAME, OTHER)
    with pytest.raises(ZooError, match="no entry"):
        retire(source, NAME, "nothing")
    assert (own_zoo / NAME).is_dir()


@pytest.mark.parametrize(
    ("retired", "message"),
    [
        ({"a_b.c": {"superseded_by": "nothing", "version": "1.0.0"}}, "is retired for 'nothing'"),
        ({NAME: {"superseded_by": OTHER, "version": "1.0.0"}}, "a name that is no entry"),
        ({"a_b.c": {"superseded_by": OTHER}}, "has no version"),
        ([1], "damaged"),
    ],
)
def test_a_damaged_list_of_retired_entries_is_refused(own_zoo, retired, message):
    path = own_zoo / "registry.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"retired": retired}))
    with pytest.raises(ZooError, match=message):
        read_registry(path)
