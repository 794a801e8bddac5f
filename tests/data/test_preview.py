import re

import numpy as np
import pytest
import torch
from helpers.tiny_run import tiny_data
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data.preview import draw_augmentation

SYNTHETIC = ["synthetic", "--set", "num_train=6", "--set", "image_size=16"]


def pictures(figure):
    return [[axis.images[0].get_array() for axis in row] for row in np.array(figure.axes).reshape(3, -1)]


@pytest.mark.parametrize("augmented", [True, False])
def test_shows_what_is_stored_beside_what_is_trained(augmented):
    data = tiny_data(augment=None if augmented else False)
    data.setup("fit")
    rows = pictures(draw_augmentation(data, num_images=3, num_variants=4))
    assert [len(row) for row in rows] == [5] * 3
    for number, (stored, *trained) in enumerate(rows):
        image = data.stores["train"].image(number * 24 // 3)
        expected = image.float() / 255 if image.dtype == torch.uint8 else (image + 1) / 2
        assert np.allclose(stored, expected.permute(1, 2, 0), atol=1e-6)
        assert all(np.allclose(stored, variant, atol=1e-6) != augmented for variant in trained)


def test_command(tmp_path, capsys):
    main(["data", "augment-preview", *SYNTHETIC, f"--out={tmp_path / 'new' / 'a.png'}", "--num_variants=2"])
    assert "Wrote" in capsys.readouterr().out
    with Image.open(tmp_path / "new" / "a.png") as image:
        assert image.width > 300
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("wrong", ["--out=a.jpg", "--num_images=0", "--num_variants=0"])
def test_wrong_options(wrong, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["data", "augment-preview", *SYNTHETIC, "--out=a.png", wrong])
    assert re.search("a.jpg does not end in .png|'0' is not a whole number of at least 1", capsys.readouterr().err)


def test_missing_data(tmp_path):
    options = ["isic2018", str(tmp_path), "--out=a.png"]
    with pytest.raises(SystemExit, match="error: No training set of ISIC 2018"):
        main(["data", "augment-preview", *options])
