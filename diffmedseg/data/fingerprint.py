"""A fingerprint of a split."""

from hashlib import blake2b

from diffmedseg.data.store import ImageStore


def split_fingerprint(store: ImageStore, most: int = 64) -> str:
    """Compute a digest of a split: of all names and cases, and of the images and masks of evenly spread items.

    The digest changes with the images, the grid, the masks and the split, without reading gigabytes. It misses a change
    in items that are not read.

    Args:
        store: The split.
        most: Number of items to read.

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
