import numpy as np
import pytest
import torch
from helpers.dark_disc import picture
from helpers.mri_files import modality, write_dicom, write_nifti
from helpers.picture_kinds import write_png
from PIL import Image, ImageOps

from diffmedseg.errors import DataError
from diffmedseg.prediction import find_pictures
from diffmedseg.reading.pictures import read_picture, read_upright, turn_back, turn_upright

GRID = (32, 48)


def read(path, channels=3, **options):
    return read_picture(path, channels, GRID, **options)


def close(a, b, most=6):
    return (a.float() - b.float()).abs().mean() < most


@pytest.mark.parametrize(
    ("mode", "file"),
    [("RGB", "a.png"), ("RGBA", "a.png"), ("CMYK", "a.tif"), ("CMYK", "a.jpg"), ("YCbCr", "a.jpg"), ("RGB", "a.webp"),
     ("RGB", "a.JPEG"), ("RGB", "a.bmp"), ("RGB", "a.ppm"), ("P", "a.png"), ("P", "a.gif")],
)  # fmt: skip
def test_colour_modes_look_alike(mode, file, tmp_path):
    picture().save(tmp_path / "expected.png")
    original = picture().quantize(16) if mode == "P" else picture().convert(mode)
    original.save(tmp_path / file)
    assert close(read(tmp_path / file).image, read(tmp_path / "expected.png").image)


@pytest.mark.parametrize(
    ("mode", "file"), [("L", "a.png"), ("LA", "a.png"), ("L", "a.jpg"), ("I;16", "a.png"), ("I;16", "a.tif")]
)
def test_grey_modes_look_alike(mode, file, tmp_path):
    grey = picture().convert("L")
    sixteen = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
    (sixteen if mode == "I;16" else grey.convert(mode)).save(tmp_path / file)
    grey.convert("RGB").save(tmp_path / "expected.png")
    assert close(read(tmp_path / file).image, read(tmp_path / "expected.png").image, 2)
    assert close(read(tmp_path / file, channels=1).image, read(tmp_path / "expected.png").image[:1], 2)


def test_black_and_white(tmp_path):
    bilevel = picture().convert("L").point(lambda level: 255 * (level > 127)).convert("1")
    bilevel.save(tmp_path / "a.png")
    image = read(tmp_path / "a.png").image
    assert set(image[:, ::31, ::47].unique().tolist()) == {255}
    assert image.min() == 0


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif"])
def test_exif_orientation_is_what_viewers_show(orientation, suffix, tmp_path):
    exif = Image.Exif()
    exif[0x112] = orientation
    picture().save(tmp_path / f"a.{suffix}", exif=exif)
    with Image.open(tmp_path / f"a.{suffix}") as opened:
        upright = ImageOps.exif_transpose(opened).convert("RGB")
    upright.save(tmp_path / "upright.png")
    found = read(tmp_path / f"a.{suffix}")
    assert (found.orientation, found.size) == (orientation, (60, 90))
    assert close(found.image, read(tmp_path / "upright.png").image, 3)
    assert read_upright(tmp_path / f"a.{suffix}", 45, None).size == tuple(n // 2 for n in upright.size)
    map_ = torch.rand(2, 5, 7)
    assert torch.equal(turn_back(turn_upright(map_, orientation), orientation), map_)


def test_absurd_orientation_is_none(tmp_path):
    exif = Image.Exif()
    exif[0x112] = 77
    picture().save(tmp_path / "a.jpg", exif=exif)
    assert read(tmp_path / "a.jpg").orientation == 1


def test_twelve_bits_in_sixteen(tmp_path):
    levels = np.asarray(picture().convert("L"))
    Image.fromarray(levels.astype(np.uint16) * 16).save(tmp_path / "a.png")
    found = read(tmp_path / "a.png")
    assert "--range 0 4095" in found.note
    assert found.image.max() < 20
    ranged = read(tmp_path / "a.png", value_range=(0, 4095))
    assert ranged.note == ""
    picture().convert("L").save(tmp_path / "expected.png")
    assert close(ranged.image, read(tmp_path / "expected.png").image, 2)


def test_float_needs_a_range(tmp_path):
    values = np.asarray(picture().convert("L")).astype(np.float32) / 100 - 1
    values[0, 0] = np.nan
    Image.fromarray(values).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match="--range LOW HIGH"):
        read(tmp_path / "a.tif")
    picture().convert("L").save(tmp_path / "expected.png")
    assert close(read(tmp_path / "a.tif", value_range=(-1, 1.55)).image, read(tmp_path / "expected.png").image, 2)


def test_large_pictures_are_read_and_the_limit_is_put_back(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(Image.DecompressionBombError):
        Image.open(tmp_path / "a.png")
    assert read(tmp_path / "a.png").size == (60, 90)
    assert Image.MAX_IMAGE_PIXELS == 100


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "gif", "webp", "bmp"])
@pytest.mark.parametrize("kept", [0, 5, 40, 0.5, 0.9])
def test_damaged_files_are_refused(suffix, kept, tmp_path):
    picture(900, 600).save(tmp_path / f"a.{suffix}")
    content = (tmp_path / f"a.{suffix}").read_bytes()
    (tmp_path / f"a.{suffix}").write_bytes(content[: kept if isinstance(kept, int) else int(kept * len(content))])
    with pytest.raises(DataError, match=r"cannot be decoded|pictures"):
        read(tmp_path / f"a.{suffix}")


def test_several_pages_are_refused(tmp_path):
    picture().save(tmp_path / "a.tif", save_all=True, append_images=[picture()])
    with pytest.raises(DataError, match="holds 2 pictures"):
        read(tmp_path / "a.tif")


def test_the_preview_in_a_phones_jpeg_does_no_harm(tmp_path):
    picture().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[picture(30, 20)])
    assert read(tmp_path / "a.jpg").size == (60, 90)


def names(*sources):
    return [file.name for file in find_pictures(sources)]


def test_finds_files_folders_and_patterns_in_order(tmp_path):
    for name in ("b.jpg", "a.PNG", "sub/c.tif", "sub/deep/d.webp", "sub/.hidden.png", "._a.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a", "b"]
    assert names(tmp_path / "b.jpg") == ["b"]
    assert names(tmp_path / "**" / "*") == ["a", "b", "sub/c", "sub/deep/d"]
    assert names(tmp_path / "*.jpg") == ["b"]
    assert names(tmp_path / "sub", tmp_path / "b.jpg", tmp_path) == ["a", "b", "c"]
    assert names(tmp_path, tmp_path / "[ab].*") == ["a", "b"]


@pytest.mark.parametrize("suffix", ["jfif", "JPE", "jp2", "j2k", "webp", "ppm", "pbm", "tga", "pcx", "apng"])
def test_whatever_pillow_reads_is_taken(suffix, tmp_path):
    picture().convert("1" if suffix == "pbm" else "RGB").save(tmp_path / f"a.{suffix}")
    [file] = find_pictures([tmp_path])
    assert read(file.path).size == (60, 90)


def test_what_is_left_out_is_named(tmp_path, caplog):
    unsaid = ["a.png", ".DS_Store", "Thumbs.db", "predictions.csv", "sub/.hidden", "out/predictions.yaml"]
    for name in [*unsaid, "IMG_0001.HEIC", "fake.dcm", "film.mpg", "noext", "sub/b.jpg", "sub/c.txt", "out/a_mask.png"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert names(tmp_path) == ["a"]
    assert "Left out (4)" in caplog.text
    assert "IMG_0001.HEIC" in caplog.text
    assert f"Pictures in subfolders (sub) are left out. To include them, use '{tmp_path}/**/*'" in caplog.text
    assert not any(word in caplog.text for word in ("Thumbs", "DS_Store", "predictions", "out/"))
    caplog.clear()
    assert names(f"{tmp_path}/**/*.*", tmp_path / "fake.dcm", tmp_path / "film.mpg") == [
        "a", "fake", "film", "out/a_mask", "sub/b"
    ]  # fmt: skip
    assert "Left out (2)" in caplog.text
    caplog.clear()
    assert names(tmp_path / "*.png") == ["a"]
    assert caplog.text == ""


@pytest.mark.parametrize("kind", ["nifti", "dicom"])
def test_volumes_are_no_pictures(kind, tmp_path):
    if kind == "nifti":
        write_nifti(tmp_path / "case" / "flair.nii.gz", modality(0))
    else:
        write_dicom(tmp_path / "case", modality(0))
    for source in (tmp_path, tmp_path / "case", tmp_path / "case" / "*"):
        with pytest.raises(DataError, match=r"[Nn]o picture.*This model takes pictures, not volumes"):
            find_pictures([source])
    path = next((tmp_path / "case").iterdir())
    [file] = find_pictures([path])
    with pytest.raises(DataError, match="it is a volume, where a picture is expected"):
        read(file.path)


def test_what_is_named_is_taken_whatever_its_suffix(tmp_path):
    (tmp_path / "scan.dat").touch()
    assert names(tmp_path / "scan.dat") == ["scan"]


def test_nothing_found(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.png").touch()
    with pytest.raises(DataError, match=r"No picture in .*use '.*\*\*/\*'"):
        find_pictures([tmp_path])
    (tmp_path / "notes.txt").touch()
    with pytest.raises(DataError, match=r"No picture in .*it holds notes\.txt.*such as \.png"):
        find_pictures([tmp_path])
    with pytest.raises(DataError, match=r"There is no file or folder .*, and no picture matches it as a pattern"):
        find_pictures([tmp_path / "*.jpg"])


def test_results_that_would_overwrite_each_other(tmp_path):
    for name in ("a.jpg", "a.png", "one/b.png", "two/b.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    with pytest.raises(DataError, match=r"same name: .*a\.jpg and .*a\.png"):
        find_pictures([tmp_path])
    with pytest.raises(DataError, match="same name"):
        find_pictures([tmp_path / "one", tmp_path / "two"])
    assert names(tmp_path / "*" / "b.png") == ["one/b", "two/b"]


def test_the_same_file_twice_is_one_picture(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.png").touch()
    assert names(tmp_path, tmp_path / "sub" / ".." / "a.png", tmp_path / "*.png") == ["a"]


def test_names_that_differ_in_case_alone(tmp_path):
    (tmp_path / "a.png").touch()
    (tmp_path / "A.jpg").touch()
    with pytest.raises(DataError, match="same name"):
        find_pictures([tmp_path])


def test_a_link_that_leads_nowhere_is_reported(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "folder.png").mkdir()
    [file] = find_pictures([tmp_path])
    with pytest.raises(DataError, match="a broken link"):
        read(file.path)


def test_sixteen_bits_per_colour(tmp_path):
    """Pillow keeps the upper eight: of 12-bit data nothing but black."""
    levels = np.asarray(picture()).astype(np.uint16) * 16
    write_png(tmp_path / "a.png", levels)
    assert "convert it to 8" in read(tmp_path / "a.png").note
    with pytest.raises(DataError, match="--range cannot apply"):
        read(tmp_path / "a.png", value_range=(0, 4095))
    write_png(tmp_path / "b.png", levels * 16)
    picture().save(tmp_path / "expected.png")
    assert close(read(tmp_path / "b.png").image, read(tmp_path / "expected.png").image, 2)
    assert read(tmp_path / "b.png").note == ""
