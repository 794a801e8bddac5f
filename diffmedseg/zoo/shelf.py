"""The models of an app or a service: each is loaded once, when first needed, and shared by all users."""

import base64
import re
from collections import OrderedDict
from collections.abc import Collection, Sequence
from pathlib import Path
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

    def card(self, name: str, pictures: bool = False) -> str:
        """Return a model's card as Markdown, without front matter.

        Args:
            name: The model's name.
            pictures: Put the card's pictures into the text, as data; otherwise it says where they are.
        """
        model = self.get(name)
        if name in self._entries:
            folder, entry = current_source().verified(name)
            if (folder / "README.md").is_file():
                text = (folder / "README.md").read_text(encoding="utf-8")
                return _whole_card(text, folder, entry.sha256 if pictures else ())
        return (
            f"# {name}\n\n{model.title}. {NOT_FOR_DIAGNOSIS}\n\n"
            f"- Input: {', '.join(model.channels)}, {model.image_size[0]} x {model.image_size[1]} px.\n"
            f"- Regions: {', '.join(model.regions)}; the mask is where the probability exceeds {model.threshold:.3g}.\n"
            f"- Samples: {model.num_samples}.\n- Learned from: {model.learned_from}.\n"
            "- This is a run or a checkpoint, not an entry of the zoo: its folder has its scores.\n"
        )


def _whole_card(text: str, folder: Path, pictures: Collection[str]) -> str:
    """Leave out front matter, and put pictures of these names into the text."""

    def embed(link: re.Match[str]) -> str:
        title, name = link.groups()
        if name not in pictures:
            return f"(The picture {name} lies beside this card in the zoo.)"
        data = base64.b64encode((folder / name).read_bytes()).decode()
        return f"![{title}](data:image/png;base64,{data})"

    text = re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL)
    return re.sub(r"^!\[([^\]]*)\]\(([^)]*)\)", embed, text, flags=re.MULTILINE)
