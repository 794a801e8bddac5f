import errno
import os
import pickle
import threading
from collections import namedtuple
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffmedseg.cli import main
from diffmedseg.data import cache
from diffmedseg.data.cache import files_key
from diffmedseg.data.files import Item
from diffmedseg.data.shrinking import ShrunkImages, shrink_images
from diffmedseg.errors import DataError
from diffmedseg.reading.masks import MaskReader


def read_masks(item):
    return np.stack([MaskReader([path]).read(path) for path in item.masks])[:, None].astype(np.uint8)


@pytest.fixture
def items(tmp_path):
    """Three images of different sizes (odd: no centre falls between pixels), each with the masks of two raters."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "data"
    folder.mkdir()
    made = []
    for name, height, width in (("a", 31, 39), ("b", 17, 13), ("c", 63, 65)):
        image, masks = folder / f"{name}.jpg", tuple(folder / f"{name}_{rater}.png" for rater in (1, 2))
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(image)
        for mask in masks:
            Image.fromarray(rng.integers(0, 2, (height, width), dtype=np.uint8) * 255).save(mask)
        made.append(Item(name, image, masks))
    return made


@pytest.fixture
def shrink(tmp_path):
    def run(items, size=(8, 10), mask_shape=(2, 1), read=read_masks):
        return shrink_images(tmp_path / "cache", "set-training", items, size, mask_shape, read)

    return run


def unused(item):
    raise AssertionError("decoded again")


def test_shapes_values_and_order(items, shrink):
    shrunk = shrink(items)
    assert shrunk.images.shape == (3, 3, 8, 10)
    assert shrunk.masks.shape == (3, 2, 1, 8, 10)
    assert shrunk.images.dtype == shrunk.masks.dtype == np.uint8
    assert not shrunk.images.flags.writeable
    for row, item in enumerate(items):
        for rater, path in enumerate(item.masks):
            nearest = Image.open(path).resize((10, 8), Image.Resampling.NEAREST)
            np.testing.assert_array_equal(shrunk.masks[row, rater, 0] * 255, np.asarray(nearest))
    np.testing.assert_array_equal(shrink(items[::-1]).images, shrunk.images[::-1])


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_shrunk_image_is_antialiased_and_in_place(tmp_path, shrink, suffix):
    """A fine checkerboard over a ramp turns into the ramp: nothing aliases, nothing shifts, whatever is decoded."""
    height, width = 401, 513  # decoded at 1/8 from JPEG: the last of 65 columns is but an eighth of one
    ramp = np.broadcast_to(np.linspace(40, 200, width), (height, width))
    checks = (np.indices((height, width)).sum(0) % 2) * 60 - 30
    image, mask = tmp_path / f"a.{suffix}", tmp_path / "mask.png"
    Image.fromarray(np.stack([ramp + checks] * 3, -1).astype(np.uint8)).save(image)
    Image.fromarray(np.zeros((height, width), np.uint8)).save(mask)
    shrunk = shrink([Item("a", image, (mask,))], size=(16, 20), mask_shape=(1, 1)).images[0]
    centres = (np.arange(20) + 0.5) * width / 20 - 0.5
    expected = np.broadcast_to(np.interp(centres, range(width), ramp[0]), (3, 16, 20))
    np.testing.assert_allclose(shrunk[..., 1:-1], expected[..., 1:-1], atol=1.5)  # filters are cut off at the border


def test_written_once_and_reused(items, shrink):
    first = shrink(items)
    again = shrink(items, read=unused)
    assert again.folder == first.folder
    np.testing.assert_array_equal(again.images, first.images)


@pytest.mark.parametrize("change", ["content", "size", "mask", "fewer"])
def test_rebuilt_when_anything_changes(items, shrink, change):
    first = shrink(items)
    size = (8, 8) if change == "size" else (8, 10)
    path = items[0].masks[1] if change == "mask" else items[0].image
    if change in {"content", "mask"}:
        Image.open(path).transpose(Image.Transpose.ROTATE_180).save(path)
    second = shrink(items[:2] if change == "fewer" else items, size)
    assert second.folder != first.folder


def test_content_counts_and_not_time(items, shrink):
    """Two data sets whose names, sizes and times are alike share nothing; downloaded again, one is known again."""
    masks = [items[0].masks[0].with_name(f"{name}.bmp") for name in ("one", "two")]
    for mask, values in zip(masks, (0, 255), strict=True):
        Image.fromarray(np.full((31, 39), values, np.uint8)).save(mask)
        mask.parent.joinpath(mask.stem).mkdir()
        mask = mask.rename(mask.parent / mask.stem / "mask.bmp")
        os.utime(mask, ns=(0, 0))
    sets = [[Item("a", items[0].image, (items[0].image.parent / name / "mask.bmp",))] for name in ("one", "two")]
    assert [int(shrink(one, mask_shape=(1, 1)).masks.max()) for one in sets] == [0, 1]
    os.utime(sets[1][0].masks[0])
    os.utime(items[0].image)
    shrink(sets[1], mask_shape=(1, 1), read=unused)


@pytest.mark.parametrize("place", [0, 500_000, 999_999])
def test_large_files_are_told_apart_by_a_sample(place, tmp_path):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(bytes(1_000_000))
    first = files_key([("a", path)], None)
    os.utime(path, ns=(1, 1))
    assert files_key([("a", path)], None) == first
    path.write_bytes(bytes(place) + b"x" + bytes(999_999 - place))
    assert files_key([("a", path)], None) != first


def test_an_edit_that_no_sample_sees_is_told_by_its_time(tmp_path):
    path = tmp_path / "seg.nii"
    path.write_bytes(bytes(1_000_000))
    os.utime(path, ns=(1, 1))
    first = files_key([("a", path)], None)
    path.write_bytes(bytes(200_000) + b"label" + bytes(799_995))
    assert files_key([("a", path)], None) != first


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(items, shrink):
    items[1].image.chmod(0)
    with pytest.raises(DataError, match=r"1 of 3 items .*\n.*b\.jpg: it cannot be decoded"):
        shrink(items)


def test_interruption_leaves_nothing(items, shrink, tmp_path):
    def interrupted(item):
        if item.id == "c":
            raise KeyboardInterrupt
        return read_masks(item)

    with pytest.raises(KeyboardInterrupt):
        shrink(items, read=interrupted)
    assert list((tmp_path / "cache").iterdir()) == []
    assert len(shrink(items).images) == 3


def test_all_failures_are_reported_at_once(items, shrink, tmp_path):
    items[0].image.write_bytes(items[0].image.read_bytes()[:-200])
    items[1].masks[1].write_bytes(b"<html>403</html>")
    Image.new("L", (3, 2)).save(items[2].masks[0])
    Image.new("L", (3, 2)).save(items[2].masks[1])
    with pytest.raises(DataError) as caught:
        shrink(items)
    message = str(caught.value)
    assert "3 of 3 items of set-training" in message
    assert f"{items[0].image}: it cannot be decoded (image file is truncated" in message
    assert f"{items[1].masks[1]}: it cannot be decoded (cannot identify" in message
    assert "(2, 1, 63, 65), but c_1.png and c_2.png has (2, 1, 2, 3)" in message
    assert "Download or export it again" in message
    assert list((tmp_path / "cache").iterdir()) == []


def test_only_three_of_many_failures_are_named(items, shrink):
    items[0].image.write_bytes(b"")
    with pytest.raises(DataError, match="5 of 5 items") as caught:
        shrink([items[0]] * 5)
    assert str(caught.value).count("a.jpg: it cannot be decoded") == 3
    assert "and 2 more" in str(caught.value)


def test_masks_of_too_few_raters_are_not_repeated(items, shrink):
    with pytest.raises(DataError, match=r"\(2, 1, 31, 39\), but .* has \(1, 1, 31, 39\)"):
        shrink(items, read=lambda item: read_masks(item)[:1])


def test_racing_builds_agree(items, tmp_path):
    """Both builds are under way before either ends; one result is kept and both are given it."""
    barrier, results = threading.Barrier(2, timeout=300), []

    def read(item):
        if item.id == "a":
            barrier.wait()
        return read_masks(item)

    def run():
        results.append(shrink_images(tmp_path / "cache", "set", items, (8, 8), (2, 1), read))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 2
    assert results[0].folder == results[1].folder
    assert list((tmp_path / "cache").iterdir()) == [results[0].folder]
    np.testing.assert_array_equal(results[0].masks, results[1].masks)


def test_pickled_as_a_name(items, shrink):
    shrunk = shrink(items, size=(64, 64))
    pickled = pickle.dumps(shrunk)
    assert len(pickled) < 1000
    np.testing.assert_array_equal(pickle.loads(pickled).images, shrunk.images)


def test_damaged_cache_says_so(items, shrink):
    folder = shrink(items).folder
    (folder / "masks.npy").write_bytes((folder / "masks.npy").read_bytes()[:200])
    with pytest.raises(DataError, match=r"damaged.*Delete this folder"):
        ShrunkImages(folder)


def test_cache_that_cannot_be_written(items, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="DIFFMEDSEG_CACHE"):
        shrink_images(tmp_path / "file" / "cache", "set", items, (8, 8), (2, 1), read_masks)


def test_full_disk(items, shrink, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda folder: usage(free=10))
    with pytest.raises(DataError, match="room for") as caught:
        shrink(items)
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.ENOSPC


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1", "LA"])
def test_any_mode_of_image(tmp_path, shrink, mode):
    image, mask = tmp_path / "a.png", tmp_path / "m.png"
    Image.new("RGB", (20, 16), (255, 255, 255)).convert(mode).save(image)
    Image.new("1", (20, 16), 1).save(mask)
    shrunk = shrink([Item("a", image, (mask,))], mask_shape=(1, 1))
    assert (shrunk.images == 255).all()
    assert (shrunk.masks == 1).all()


def test_progress_is_shown_for_big_sets_only(items, shrink, capsys):
    shrink(items * 10)
    assert capsys.readouterr().out == ""
    shrink(items * 67)
    assert "Shrinking set-training" in capsys.readouterr().out


def test_paths_are_not_part_of_the_key(items, shrink, tmp_path):
    """Data that was moved is not decoded again."""
    first = shrink(items)
    moved = tmp_path / "moved"
    items[0].image.parent.rename(moved)

    def there(path: Path) -> Path:
        return moved / path.name

    shrink([Item(i.id, there(i.image), tuple(map(there, i.masks))) for i in items], read=unused)
    assert first.images.shape == (3, 3, 8, 10)


def test_the_command_shows_and_clears_the_cache(items, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("DIFFMEDSEG_CACHE", str(tmp_path / "cache"))
    main(["data", "cache"])
    assert "Holds 0.0 MB" in capsys.readouterr().out
    shrink_images(tmp_path / "cache", "mine", items, (8, 8), (2, 1), read_masks)
    (tmp_path / "cache" / "notes").mkdir()
    (tmp_path / "cache" / "notes.txt").touch()
    main(["data", "cache"])
    assert "mine " in capsys.readouterr().out
    main(["data", "cache", "--clear"])
    assert "Deleted" in capsys.readouterr().out
    assert sorted(path.name for path in (tmp_path / "cache").iterdir()) == ["notes", "notes.txt"]
