"""The models of an app or a service: each is loaded once, when first needed, and shared by all users."""

import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from threading import Lock

import torch

from diffmedseg.errors import ZooError, unknown
from diffmedseg.models.segmenting import Segmenter
from diffmedseg.zoo.loading import load_model
from diffmedseg.zoo.source import current_source

NOT_FOR_DIAGNOSIS = "Research software. Not for diagnosis."
_LOADED = 4  # models in memory at the same time


class Shelf:
    """Models by name. Users share models, which are never changed.

    Args:
        names: Checkpoints, runs or zoo entries to offer first.
        trust: Packages besides diffmedseg whose classes may be built.
        device: Device of the models.
        whole_zoo: Offer the trained entries of the zoo, too.

    Raises:
        ZooError: If a name stands for no model.
    """

    def __init__(
        self, names: Sequence[str], trust: Collection[str], device: torch.device, whole_zoo: bool = True
    ) -> None:
        self._trust, self._device, self._lock = trust, device, Lock()
        self._loaded: OrderedDict[str, Segmenter] = OrderedDict()
        entries = current_source().entries()
        zoo = [name for name, entry in entries.items() if entry.status == "trained"] if whole_zoo else []
        self._entries = entries
        self.names = list(dict.fromkeys([*names, *zoo]))
        for name in names:
            self.get(name)

    def get(self, name: str) -> Segmenter:
        """Return a model in evaluation mode, on the device. Only names on the shelf can be loaded.

        Raises:
            ZooError: If there is no such model, or it cannot be loaded.
        """
        if name not in self.names:
            raise ZooError(unknown("model", name, self.names))
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load_model(name, self._trust).to(self._device).eval()
            self._loaded.move_to_end(name)
            if len(self._loaded) > _LOADED:
                self._loaded.popitem(last=False)
            return self._loaded[name]

    def intended_use(self, name: str) -> str:
        """Return the intended use of a model, and its limits."""
        entry = self._entries.get(name)
        return NOT_FOR_DIAGNOSIS if entry is None else entry.intended_use

    def card(self, name: str) -> str:
        """Return a model's card as Markdown, without front matter and pictures."""
        model = self.get(name)
        if name in self._entries:
            folder, _ = current_source().verified(name)
            if (folder / "README.md").is_file():
                return _plain_card((folder / "README.md").read_text(encoding="utf-8"))
        return (
            f"# {name}\n\n{model.title}. {NOT_FOR_DIAGNOSIS}\n\n"
            f"- Input: {', '.join(model.channels)}, {model.image_size[0]} x {model.image_size[1]} px.\n"
            f"- Regions: {', '.join(model.regions)}; the mask is where the probability exceeds {model.threshold:.3g}.\n"
            f"- Samples: {model.num_samples}.\n- Learned from: {model.learned_from}.\n"
            "- This is a run or a checkpoint, not an entry of the zoo: its folder has its scores.\n"
        )


def _plain_card(text: str) -> str:
    """Remove front matter and pictures, which are not served."""
    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^!\[[^\]]*\]\([^)]*\)\n+", "", text, flags=re.MULTILINE)
