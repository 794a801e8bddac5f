"""Each thing that can be wrong with a data set is found, named, and nothing else."""

import json

import numpy as np
import pytest
import torch
from helpers.isic_files import folders, write, write_pair
from helpers.picture_files import lesion, save, save_mask
from helpers.tiny_run import EXPERIMENTS
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import ISIC2018DataModule, SyntheticDataModule
from diffmedseg.data.checking import check_data
from diffmedseg.data.duplicates import fingerprint, nearly_same, same

SIZE = (40, 48)


def photo(seed):
    """Smooth texture, unlike that of any other seed."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 255, (6, 6, 3), dtype=np.uint8))
    return np.asarray(coarse.resize(SIZE[::-1], Image.Resampling.BICUBIC))


def mask(seed):
    return np.pad(lesion(seed), ((0, 16), (0, 18)))


def write_folder(root, numbers=range(12), raters=("masks",)):
    for number in numbers:
        save(root / "images" / f"p{number}.png", photo(number))
        for rater, folder in enumerate(raters):
            save_mask(root / folder / f"p{number}.png", mask(number) if rater == 0 else mask(number) * (number % 2))


def run(root, *options, name="folder"):
    """Return the exit code and what was found."""
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", name, str(root), "--json", "--set", "image_size=32", *map(str, options)])
    return caught.value.code


def found(root, capsys, *options):
    code = run(root, *options)
    result = json.loads(capsys.readouterr().out)
    assert code == (0 if result["passed"] else 1)
    return result


def kinds(result, serious=True):
    return {problem["kind"]: problem["names"] for problem in result["problems"] if problem["serious"] == serious}


def test_a_sound_data_set_passes(tmp_path, capsys):
    write_folder(tmp_path, raters=("masks_a", "masks_b"))
    result = found(tmp_path, capsys)
    assert result["passed"]
    assert result["problems"] == []
    train = result["splits"]["train"]
    assert train["sizes"] == {"40 x 48": len(train["ids"])}
    assert train["raters"] == {"2": len(train["ids"])}
    odd = [int(name[1:]) % 2 for name in train["ids"]]
    assert train["agreement"]["foreground"] == pytest.approx(np.mean(odd))
    assert sum(train["areas"]["foreground"]) == len(odd)
    assert train["empty"]["foreground"] == 0
    assert 0 <= train["channels"]["red"]["least"] < train["channels"]["red"]["mean"] < 255


def test_copies_between_splits_are_leaks_and_within_one_are_notes(tmp_path, capsys):
    write_folder(tmp_path)
    before = found(tmp_path, capsys)["splits"]
    tested, trained, other = before["test"]["ids"][0], *before["train"]["ids"][:2]
    save(tmp_path / "images" / f"{tested}.png", photo(int(trained[1:])))  # the same pixels
    assert kinds(found(tmp_path, capsys)) == {"same image": [f"{trained} = {tested}"]}
    with Image.open(tmp_path / "images" / f"{trained}.png") as image:
        image.resize((96, 80)).save(tmp_path / "images" / f"{tested}.jpg", quality=70)  # resized and compressed
    (tmp_path / "images" / f"{tested}.png").unlink()
    save_mask(tmp_path / "masks" / f"{tested}.png", np.kron(mask(1), np.ones((2, 2))) > 0)
    assert kinds(found(tmp_path, capsys)) == {"nearly same image": [f"{trained} = {tested}"]}
    (tmp_path / "images" / f"{tested}.jpg").unlink()
    save(tmp_path / "images" / f"{tested}.png", photo(int(tested[1:])))
    save_mask(tmp_path / "masks" / f"{tested}.png", mask(1))
    save(tmp_path / "images" / f"{other}.png", photo(int(trained[1:])))
    result = found(tmp_path, capsys)
    assert result["passed"]
    assert list(kinds(result, serious=False)) == ["same image"]


def test_images_of_another_data_set(tmp_path, capsys):
    write_folder(tmp_path / "a")
    write_folder(tmp_path / "b", range(50, 60))
    assert found(tmp_path / "a", capsys, "--against", "folder", tmp_path / "b")["passed"]
    save(tmp_path / "b" / "images" / "p55.png", photo(7))  # under another name
    save(tmp_path / "b" / "images" / "p3.png", photo(99))  # another image of the same name
    save_mask(tmp_path / "b" / "masks" / "p3.png", mask(0))
    problems = kinds(found(tmp_path / "a", capsys, "--against", "folder", tmp_path / "b"))
    assert problems == {"same id": ["p3"], "same image": ["p7 = p55"]} or problems == {
        "same id": ["p3"],
        "nearly same image": ["p7 = p55"],
    }


def test_pictures_and_masks_without_each_other(tmp_path, capsys):
    write_folder(tmp_path, range(13))
    (tmp_path / "masks" / "p3.png").unlink()
    result = found(tmp_path, capsys)
    assert result["passed"]
    assert kinds(result, serious=False) == {"picture without mask": ["p3"]}
    (tmp_path / "images" / "p5.png").unlink()
    result = found(tmp_path, capsys)
    assert not result["passed"]
    assert kinds(result) == {"mask without picture": ["masks/p5.png"]}


def test_settings_of_settings(tmp_path, capsys):
    write_folder(tmp_path)
    (tmp_path / "images").rename(tmp_path / "photos")
    assert not found(tmp_path, capsys)["passed"]
    assert found(tmp_path, capsys, "--set", "layout.image=photos/(?P<id>.+)")["passed"]


def test_files_that_cannot_be_used_are_all_named(tmp_path, capsys):
    write_folder(tmp_path)
    for number in (2, 5):
        (tmp_path / "images" / f"p{number}.png").write_bytes(b"no picture")
    [problem] = found(tmp_path, capsys)["problems"]
    assert problem["kind"] == "unreadable"
    assert problem["names"] == ["p2", "p5"]


def test_unpaired_files_are_all_named(tmp_path, capsys):
    write(tmp_path, ISIC2018DataModule, training=20, test=3)
    images, masks = folders(tmp_path)
    (masks / "ISIC_0000004_segmentation.png").unlink()
    (images / "ISIC_0000007.jpg").unlink()
    run(tmp_path, name="isic2018")
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert problem["names"] == ["ISIC_0000004", "ISIC_0000007"]
    write_pair(images, masks, 4)
    write_pair(images, masks, 7)
    run(tmp_path, name=str(EXPERIMENTS / "data" / "isic2018.yaml"))
    assert "unreadable" not in kinds(json.loads(capsys.readouterr().out))


def test_patients_that_a_file_of_splits_tears_apart(tmp_path):
    class Torn(SyntheticDataModule):
        def patient(self, case):
            return "p1" if case in {"train-0003", "test-0001"} else case

    result = check_data(Torn(num_train=8, num_val=2, num_test=2, image_size=16))
    torn = [problem for problem in result.problems if problem.kind == "patient split apart"]
    assert [problem.names for problem in torn] == [["p1"]]


def test_masks_that_are_all_empty(tmp_path, capsys):
    write_folder(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        save_mask(path, mask(0) & False)
    assert list(kinds(found(tmp_path, capsys))) == ["empty region"]


def test_the_table_and_the_sheet(tmp_path, capsys):
    write_folder(tmp_path)
    with pytest.raises(SystemExit) as caught:
        main(["data", "check", "folder", str(tmp_path), "--set", "image_size=32", "--sheet", str(tmp_path / "s.png")])
    assert caught.value.code == 0
    printed = capsys.readouterr().out
    assert "own pictures" in printed
    assert "Passed." in printed
    with Image.open(tmp_path / "s.png") as sheet:
        assert sheet.width > 500
    with pytest.raises(SystemExit, match="There is no data set 'nothing'"):
        main(["data", "check", "nothing", str(tmp_path)])


def test_pairs_within_and_between():
    assert same(list("abcab")) == [(0, 3), (1, 4)]
    assert same(list("ab"), list("xbb")) == [(1, 1), (1, 2)]
    prints = torch.stack([fingerprint(torch.from_numpy(photo(i)).permute(2, 0, 1))[1] for i in (1, 2, 1)])
    assert nearly_same(prints) == [(0, 2)]
    assert nearly_same(prints[:2], prints) == [(0, 0), (0, 2), (1, 1)]


@pytest.mark.parametrize("change", ["brighter", "noise"])
def test_what_compression_does_is_nearly_the_same_and_other_images_are_not(change):
    rng = np.random.default_rng(0)
    image = photo(3).astype(float)
    changed = image * 0.9 + 8 if change == "brighter" else image + rng.normal(0, 6, image.shape)
    first, second, other = (
        fingerprint(torch.from_numpy(x.clip(0, 255).astype(np.uint8)).permute(2, 0, 1))[1][None]
        for x in (image, changed, photo(4))
    )
    assert nearly_same(first, second)
    assert not nearly_same(first, other)
