import os
import pickle

import numpy as np
import pytest
from helpers.picture_files import yaml_module

from diffmedseg.cli import main
from diffmedseg.data.lidc_pickle import convert_lidc
from diffmedseg.errors import DataError


def slices(patients=6, each=2):
    rng = np.random.default_rng(0)
    found = {}
    for patient in range(patients):
        for number in range(each):
            masks = [np.zeros((32, 32), np.uint8) for _ in range(4)]
            for rater in range(4):
                masks[rater][8 : 14 + rater, 9:20] = rater != 2  # one overlooks it
            name = f"LIDC-IDRI-{patient:04d}_slice_{number}"
            found[name] = {"image": rng.random((32, 32)), "masks": masks, "series_uid": f"1.2.{patient}"}
    return found


def write(path, content, protocol=2):
    path.write_bytes(pickle.dumps(content, protocol))
    return path


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_what_was_pickled_is_what_is_read(protocol, tmp_path):
    content = slices()
    main(["data", "convert-lidc", str(write(tmp_path / "a.pickle", content, protocol)), str(tmp_path / "out")])
    data = yaml_module("lidc_pickle", tmp_path / "out", image_size=32, folds=3)
    stores = [data.load(split) for split in ("train", "val", "test")]
    patients = [{id_.split("_")[0] for id_ in store.ids} for store in stores]
    assert not patients[2] & (patients[0] | patients[1])
    assert len(set.union(*patients)) == 6
    store = stores[2]
    for index, name in enumerate(store.ids):
        assert np.array_equal(store.reference(index)[:, 0], content[name]["masks"])
        assert np.allclose(store.image(index)[0] / 255, content[name]["image"], atol=0.003)
    assert store.reference(0).shape == (4, 1, 32, 32)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("depth", ["top", "inside"])
def test_code_in_a_pickle_is_not_run(depth, tmp_path):
    evil = Evil(str(tmp_path / "was_here"))
    source = write(tmp_path / "a.pickle", evil if depth == "top" else slices() | {"x": evil})
    with pytest.raises(DataError, match=r"a\.pickle: it asks for (posix|nt)\.mkdir, which is no array"):
        convert_lidc(source, tmp_path / "out")
    assert not (tmp_path / "was_here").exists()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda one: one.pop("masks"), "has no image and masks"),
        (lambda one: one.update(masks=one["masks"][:3]), r"expected \(H, W\) and \(4, H, W\)"),
        (lambda one: one.update(image=one["image"] * 255), "has values out of range"),
        (lambda one: one["masks"].__setitem__(0, one["masks"][0] * 255), "has values out of range"),
    ],
)
def test_other_contents_are_refused_and_leave_nothing(harm, message, tmp_path):
    content = slices()
    harm(content["LIDC-IDRI-0003_slice_1"])
    with pytest.raises(DataError, match=f"LIDC-IDRI-0003_slice_1 .*{message}"):
        convert_lidc(write(tmp_path / "a.pickle", content), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["a.pickle"]


def test_damaged_files_and_folders_that_are_there(tmp_path):
    source = write(tmp_path / "a.pickle", slices())
    (tmp_path / "cut.pickle").write_bytes(source.read_bytes()[:2000])
    with pytest.raises(DataError, match=r"cut\.pickle cannot be read"):
        convert_lidc(tmp_path / "cut.pickle", tmp_path / "out")
    with pytest.raises(DataError, match="is no dictionary of slices"):
        convert_lidc(write(tmp_path / "b.pickle", [1, 2]), tmp_path / "out")
    (tmp_path / "out").mkdir()
    with pytest.raises(DataError, match="already exists"):
        convert_lidc(source, tmp_path / "out")
