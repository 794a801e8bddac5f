"""The data sets that there are configurations of."""

import pytest
from helpers.tiny_run import EXPERIMENTS

from diffmedseg.cli import main
from diffmedseg.data.catalogue import configured, markdown_table
from diffmedseg.errors import RecipeError


def test_the_table_has_all_data_sets():
    """The page of data sets in docs/reference is made from it."""
    names = [line.split("`")[1] for line in markdown_table().splitlines()[2:]]
    assert names == sorted(path.stem for path in (EXPERIMENTS / "data").glob("*.yaml"))


def test_one_data_set_says_where_to_get_it_and_what_to_cite(capsys):
    main(["data", "list", "chase"])
    printed = capsys.readouterr().out
    for said in ("CHASE_DB1: vessels", "raters: 2", "CC BY 4.0", "Fraz et al.", "CHASEDB1.zip"):
        assert said in printed
    with pytest.raises(SystemExit, match="no data set 'nonesuch'"):
        main(["data", "list", "nonesuch"])


def test_a_yaml_file_of_ones_own_is_a_data_set(tmp_path):
    own = tmp_path / "mine.yaml"
    own.write_text((EXPERIMENTS / "data" / "chase.yaml").read_text().replace("title: CHASE_DB1", "title: Mine"))
    assert configured(str(own), tmp_path, {}).info.title == "Mine"
    assert configured("drive", ".", {"image_size": "32"}).image_size == (32, 32)
    with pytest.raises(RecipeError, match="no data set 'other'"):
        configured("other", ".", {})
