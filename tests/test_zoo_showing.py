"""The picture of an entry's worst cases: what is on it, and whose images are on none."""

import random
import shutil
from dataclasses import replace

import pytest
import torch
from helpers.tiny_run import tiny_data, tiny_model
from PIL import Image

from diffmedseg import zoo
from diffmedseg.cli import main
from diffmedseg.data import SyntheticDataModule, facts
from diffmedseg.data.base import SegmentationDataModule
from diffmedseg.data.store import ImageStore
from diffmedseg.errors import DataError
from diffmedseg.metrics.scores import CaseScore
from diffmedseg.segmentation import Segmentation
from diffmedseg.zoo import Source, ZooError, file_sha256, showing
from diffmedseg.zoo.checking import verify_entry
from diffmedseg.zoo.registry import PICTURE
from diffmedseg.zoo.showing import PICTURE_BYTES, check_picture, show_cases

NAME = "medsegdiff-lite_synthetic.test"


def row(case, dice, both_empty=False):
    return CaseScore(case, "lesion", dice, dice, both_empty, 1, 2, 1)


def drawn_titles(monkeypatch):
    """Note which cases are drawn."""
    noted, draw = [], showing.draw_examples
    monkeypatch.setattr(showing, "draw_examples", lambda rows, regions: noted.extend(rows) or draw(rows, regions))
    return noted


def test_an_entry_has_a_picture_of_its_worst_cases(run, tmp_path):
    folder = zoo.export(run, NAME, tmp_path / "zoo")
    entry = Source(tmp_path / "zoo").entries()[NAME]
    assert entry.sha256[PICTURE] == file_sha256(folder / PICTURE)
    check_picture(folder / PICTURE)
    assert f"]({PICTURE})" in (folder / "README.md").read_text()
    assert verify_entry(Source(tmp_path / "zoo"), NAME) < 1e-3


def test_the_worst_the_median_and_the_best_case_are_shown_without_those_that_show_nothing(tmp_path, monkeypatch):
    noted = drawn_titles(monkeypatch)
    rows = [row(f"test-{i:04d}", 0.1 * i) for i in (7, 0, 3, 5, 1, 8, 4, 2, 6)] + [row("test-0009", 1.0, True)]
    assert show_cases(tiny_model().eval(), tiny_data(num_test=10), rows, tmp_path / PICTURE) == ""
    assert [title for title, _ in noted] == [
        "worst: test-0000\nDice 0.00", "worst: test-0001\nDice 0.10", "worst: test-0002\nDice 0.20",
        "median: test-0004\nDice 0.40", "best: test-0008\nDice 0.80",
    ]  # fmt: skip


def test_images_that_may_not_be_handed_on_are_not_shown_and_the_card_says_so(run, tmp_path, monkeypatch):
    monkeypatch.setattr(facts, "SYNTHETIC", replace(facts.SYNTHETIC, licence="CC BY-NC-SA 4.0"))
    folder = zoo.export(run, NAME, tmp_path / "zoo")
    assert not (folder / PICTURE).exists()
    card = (folder / "README.md").read_text()
    assert "(CC BY-NC-SA 4.0) does not allow redistribution of its images" in card
    assert PICTURE not in card
    assert "The lowest Dice: test-000" in card


@pytest.mark.parametrize(
    ("licence", "redistributable"),
    [
        ("CC0", True),
        ("CC0 (Tasks 1 and 2, which this is; mirrors that include Task 3 are CC BY-NC)", True),
        ("CC BY 4.0", True),
        ("Apache-2.0", True),
        ("CC BY-NC-SA 3.0", False),
        ("CC BY-SA 4.0", False),
        ("CC BY-ND 4.0", False),
        ("that of the challenge", False),
        ("its terms forbid copies", False),
        ("yours", False),
    ],
)
def test_only_open_licences_let_images_be_redistributed(licence, redistributable):
    assert replace(facts.SYNTHETIC, licence=licence).redistributable is redistributable


def test_an_entry_is_made_without_a_picture_where_its_data_is_not_there(run, tmp_path, monkeypatch):
    def load(self, split):
        raise DataError("data/x holds nothing: download it.")

    monkeypatch.setattr(SyntheticDataModule, "load", load)
    folder = zoo.export(run, NAME, tmp_path / "zoo")
    assert "data/x holds nothing" in (folder / "README.md").read_text()
    assert not (folder / PICTURE).exists()


def test_whoever_has_the_data_draws_what_an_entry_left_out(run, tmp_path, monkeypatch, capsys):
    folder = zoo.export(run, NAME, tmp_path / "zoo", pictures=False)
    assert not (folder / PICTURE).exists()
    assert f"zoo cases {NAME} --root" in (folder / "README.md").read_text()
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    command = ["zoo", "cases", NAME, "--out", str(tmp_path / "drawn" / "cases.png")]
    main(command)
    check_picture(tmp_path / "drawn" / "cases.png")
    assert "Wrote" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="Leave --root out"):
        main([*command, "--root", str(tmp_path)])

    def load(self, split):
        raise DataError("data/x holds nothing: download it.")

    monkeypatch.setattr(SyntheticDataModule, "load", load)
    command[-1] = str(tmp_path / "none.png")
    with pytest.raises(SystemExit, match="data/x holds nothing"):
        main(command)
    assert not (tmp_path / "none.png").exists()


def test_a_picture_is_added_to_an_entry_where_the_licence_allows_it(run, tmp_path, monkeypatch):
    folder = zoo.export(run, NAME, tmp_path / "zoo", pictures=False)
    monkeypatch.setenv("DIFFMEDSEG_ZOO", str(tmp_path / "zoo"))
    command = ["zoo", "cases", NAME, "--out", str(tmp_path / "drawn.png"), "--add"]
    with monkeypatch.context() as patch:
        patch.setattr(facts, "SYNTHETIC", replace(facts.SYNTHETIC, licence="CC BY-NC-SA 4.0"))
        with pytest.raises(SystemExit, match=r"CC BY-NC-SA 4\.0.*Leave --add out"):
            main(command)
    assert not (folder / PICTURE).exists()
    main(command)
    entry = Source(tmp_path / "zoo").entries()[NAME]
    assert (entry.version, entry.unpictured) == ("1.0.1", "")
    assert entry.sha256[PICTURE] == file_sha256(tmp_path / "drawn.png")
    assert f"]({PICTURE})" in (folder / "README.md").read_text()
    assert verify_entry(Source(tmp_path / "zoo"), NAME) < 1e-3


def test_other_data_than_was_scored_is_not_shown(tmp_path):
    reason = show_cases(tiny_model().eval(), tiny_data(), [row("elsewhere", 0.5)], tmp_path / PICTURE)
    assert "has no case elsewhere" in reason
    assert not (tmp_path / PICTURE).exists()


class Volume(ImageStore):
    """One case of three slices, whose images are 16 x 16 of one value each."""

    ids, cases = ("a", "b", "c"), ("volume",) * 3

    def __init__(self, rows):
        self.rows = rows

    def image(self, index):
        return torch.full((3, 16, 16), 100 * index, dtype=torch.uint8)

    def masks(self, index):
        mask = torch.zeros(1, 1, 16, 16, dtype=torch.uint8)
        mask[..., : self.rows[index], :] = 1
        return mask

    reference = masks


class VolumeData(SegmentationDataModule):
    info = facts.SYNTHETIC

    def __init__(self, rows):
        super().__init__(16)
        self.rows = rows

    def load(self, split):
        return Volume(self.rows)


@pytest.mark.parametrize(("reference", "expected"), [((2, 5, 3), 1), ((0, 0, 0), 2)])
def test_of_a_volume_the_slice_with_most_reference_is_shown_or_the_one_with_most_found(
    tmp_path, monkeypatch, reference, expected
):
    noted, model = drawn_titles(monkeypatch), tiny_model().eval()

    def segment(image, keys):  # brighter slices are fuller
        full = (image + 1) / 2 * 0.5 + 0.3
        probability = torch.where(torch.arange(16)[:, None] / 16 < full.mean(), 0.9, 0.1).expand(1, 1, 16, 16)
        return Segmentation(probability[None], probability, probability * 0, probability > 0.5)

    monkeypatch.setattr(model, "segment", segment)
    assert show_cases(model, VolumeData(reference), [row("volume", 0.3)], tmp_path / PICTURE) == ""
    ((_, example),) = noted
    assert example.image[0, 0, 0] == pytest.approx(100 * expected / 127.5 - 1)


def test_pictures_stay_small_whatever_is_on_them(tmp_path, monkeypatch):
    data = tiny_data(image_size=96)
    data.setup("test")
    monkeypatch.setattr(data.stores["test"], "image", lambda i: torch.randint(256, (3, 96, 96), dtype=torch.uint8))
    model = tiny_model(image_size=(96, 96)).eval()
    rows = [row(f"test-{i:04d}", 0.1 * i) for i in range(3)]
    assert show_cases(model, data, rows, tmp_path / PICTURE) == ""
    assert (tmp_path / PICTURE).stat().st_size <= PICTURE_BYTES
    assert min(Image.open(tmp_path / PICTURE).size) > 250


def test_mutated_pictures_are_refused_or_read(run, tmp_path):
    """Whatever the registry says of them: 200 tries."""
    folder = zoo.export(run, NAME, tmp_path / "zoo")
    original, path = (folder / PICTURE).read_bytes(), tmp_path / PICTURE
    chooser, refused = random.Random(2), 0
    for number in range(200):
        content = bytearray(original)
        at = chooser.randrange(len(content))
        if number % 2:
            del content[at:]
        else:
            content[at] ^= 1 << chooser.randrange(8)
        path.write_bytes(content)
        try:
            check_picture(path)
        except ZooError as error:
            refused += str(path) in str(error)
    assert 100 < refused <= 200
    shutil.copy(path, folder / PICTURE)
    with pytest.raises(ZooError, match="sha256"):
        verify_entry(Source(tmp_path / "zoo"), NAME)
