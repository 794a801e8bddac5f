"""The app, served in this process with a model that needs no training."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import pytest

from diffmedseg.errors import ZooError
from diffmedseg.models import DiffusionSegmenter
from diffmedseg.zoo import shelf
from helpers.dark_disc import bright_segmenter, dark_segmenter


class Shelf:
    """Models that are there already."""

    def __init__(self, **models: DiffusionSegmenter) -> None:
        self.models, self.names = models, list(models)

    def get(self, name: str) -> DiffusionSegmenter:
        if name not in self.models:
            raise ZooError(f"There is no model {name!r}.")
        return self.models[name]

    def intended_use(self, name: str) -> str:
        return f"For tests of {name}."

    def card(self, name: str, pictures: bool = False) -> str:
        row = f"| {' | '.join(['corruptions'] * 8)} |"
        return f"# Card of {name}\n\n{row}\n|{'---|' * 8}\n{row}\n"


@contextmanager
def served(
    root: Path, monkeypatch: pytest.MonkeyPatch, example: Path | None = None, **models: DiffusionSegmenter
) -> Iterator[str]:
    """Serve at a free port; yields the address."""
    root.mkdir()
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(root))
    monkeypatch.setenv("GRADIO_ANALYTICS_ENABLED", "False")
    from diffmedseg.app.handlers import Handlers
    from diffmedseg.app.layout import build, launch

    models = models or {"dark": dark_segmenter(), "darker": dark_segmenter(threshold=0.9),
                        "bright": bright_segmenter(("flair", "t1ce"))}  # fmt: skip
    blocks = build(Handlers(cast(shelf.Shelf, Shelf(**models)), root.resolve(), example))
    try:
        yield launch(blocks, root.resolve(), "127.0.0.1", 0, 2**20, wait=False)
    finally:
        blocks.close(verbose=False)
