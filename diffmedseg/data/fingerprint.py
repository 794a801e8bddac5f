"""Which data a split is, as one number."""

from hashlib import blake2b

from diffmedseg.data.store import ImageStore


def split_fingerprint(store: ImageStore, most: int = 64) -> str:
    """Digest a split: all names and cases, and image and masks on the model's grid of evenly spread items.

    It tells other images, another grid, other masks and another split apart without reading gigabytes. It does not see
    a change in the few items between.

    Args:
        store: The split.
        most: Items that are read.

    Returns:
        16 hexadecimal digits.
    """
    digest = blake2b(repr([*zip(store.ids, store.cases, strict=True)]).encode(), digest_size=8)
    for number in range(min(most, len(store))):
        index = number * len(store) // min(most, len(store))
        for content in (store.image(index), store.masks(index)):
            digest.update(repr((tuple(content.shape), content.dtype)).encode())
            digest.update(content.contiguous().numpy().tobytes())
    return digest.hexdigest()
