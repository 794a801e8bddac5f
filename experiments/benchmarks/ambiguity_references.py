"""References for the scores of the ambiguity benchmark: samples of a perfect sampler, and empty samples.

Each sample of the perfect sampler is the mask of one of the image's raters, drawn with equal probability. ``python
experiments/benchmarks/ambiguity_references.py lidc_slices /path/to/lidc_slices OUT`` writes OUT/perfect and OUT/empty.
``diffmedseg benchmark ambiguity lidc_slices --data.root /path/to/lidc_slices --samples OUT/perfect`` scores them.
"""

from pathlib import Path

import torch
from jsonargparse import auto_cli

from diffmedseg.data.catalogue import configured
from diffmedseg.data.store import ImageStore
from diffmedseg.evaluation.ambiguity import AmbiguityBenchmark
from diffmedseg.evaluation.sample_folders import write_samples
from diffmedseg.keyed_random import keyed_generator


def main(data: str, root: Path, out: Path, samples: int = 100, seed: int = 0) -> None:
    """Write the samples of the test split.

    Args:
        data: Name of the data set.
        root: Folder of the data set.
        out: A new folder.
        samples: Samples of each image.
        seed: Seed of the perfect sampler.
    """
    write(AmbiguityBenchmark(configured(data, root, {})).store, out, samples, seed)


def write(store: ImageStore, out: Path, samples: int, seed: int) -> None:
    """Write the samples of all images of a store."""
    for index, name in enumerate(store.ids):
        masks = store.reference(index).bool()
        raters = torch.randint(len(masks), (samples,), generator=keyed_generator(seed, "perfect", name))
        write_samples(out / "perfect", name, masks[raters])
        write_samples(out / "empty", name, torch.zeros_like(masks[raters]))


if __name__ == "__main__":
    auto_cli(main, as_positional=True)
