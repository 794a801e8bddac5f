"""Write the pages of the reference that are made from the code: commands, data sets, entries, scores, API."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import api
import commands
import lists
from sphinx.application import Sphinx
from sphinx.util.inspect import stringify_signature

PAGES: dict[str, Callable[[], str]] = {
    "cli.md": commands.page,
    "data-sets.md": lists.data_sets,
    "zoo.md": lists.zoo,
    "scores.md": lists.scores,
    **{f"api/{name}.rst": (lambda package=package: api.page(package)) for name, package in api.PACKAGES.items()},
}


def write_pages(app: Sphinx) -> None:
    """Write each page whose content changed: Sphinx then reads only those again."""
    folder = Path(app.srcdir) / "reference" / "generated"
    for name, content in PAGES.items():
        path = folder / name
        text = content()
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")


def class_signature(
    app: Sphinx, what: str, name: str, value: object, options: object, signature: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """Take the signature of ``__init__``: that of ``__new__``, which records the arguments, says nothing."""
    if what == "class" and signature is not None:
        signature = stringify_signature(inspect.signature(value), show_annotation=False, show_return_annotation=False)
    return signature, returns


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect the writer to Sphinx."""
    app.connect("builder-inited", write_pages)
    app.connect("autodoc-process-signature", class_signature)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
