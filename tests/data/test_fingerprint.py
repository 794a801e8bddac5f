import pytest
import torch
from helpers.tiny_run import tiny_data

from diffmedseg.data.fingerprint import split_fingerprint
from diffmedseg.data.store import ImageStore


class Few(ImageStore):
    def __init__(self, images, masks, cases):
        self.images, self.marks, self.cases = images, masks, cases
        self.ids = [f"{case}.{i}" for i, case in enumerate(cases)]

    def image(self, index):
        return self.images[index]

    def masks(self, index):
        return self.marks[index]

    def reference(self, index):
        return self.marks[index]


def few(change=None):
    images, masks = torch.zeros(3, 3, 8, 8, dtype=torch.uint8), torch.zeros(3, 1, 1, 8, 8, dtype=torch.uint8)
    cases = ["a", "a", "b"]
    if change == "image":
        images[1, 0, 0, 0] = 1
    if change == "mask":
        masks[2, 0, 0, 4, 4] = 1
    if change == "case":
        cases = ["a", "b", "b"]
    if change == "grid":
        images = images.reshape(3, 3, 4, 16)
    if change == "fewer":
        images, masks, cases = images[:2], masks[:2], cases[:2]
    return Few(images, masks, cases)


@pytest.mark.parametrize("change", ["image", "mask", "case", "grid", "fewer"])
def test_other_data_has_another_fingerprint(change):
    assert split_fingerprint(few()) == split_fingerprint(few())
    assert split_fingerprint(few(change)) != split_fingerprint(few())


def test_the_same_data_is_known_again():
    prints = []
    for seed in (0, 0, 1):
        data = tiny_data(seed=seed)
        data.setup("fit")
        prints.append([split_fingerprint(data.stores[split]) for split in ("train", "val")])
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[0][1]
