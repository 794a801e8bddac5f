"""Settings of Sphinx; ``make docs`` builds the pages."""

import os
import sys
from pathlib import Path

from diffmedseg import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "diffmedseg"
author = "The diffmedseg authors"
copyright = "the diffmedseg authors, Apache-2.0"
version = release = __version__

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
    "generated_pages",
]
exclude_patterns = ["_build", "_ext", "Thumbs.db", ".DS_Store"]
suppress_warnings = ["mystnb.unknown_mime_type"]

# Markdown
myst_enable_extensions = ["colon_fence", "deflist", "smartquotes"]
myst_heading_anchors = 3

# Tutorials run when the pages are built, once: a later build takes the stored outputs of what has not changed.
nb_execution_mode = os.environ.get("DIFFMEDSEG_DOCS_EXECUTION", "cache")
nb_execution_cache_path = str(HERE / "_build" / "notebooks")
nb_execution_in_temp = True
nb_execution_timeout = 900  # seconds for a cell, on a busy machine
nb_output_stderr = "remove"  # warnings of other packages, with paths of this machine
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # the command `diffmedseg`
os.environ.setdefault("COLUMNS", "100")
os.environ["WANDB_MODE"] = "disabled"

# API
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented_params"
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Pages
html_theme = "furo"
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_title = f"diffmedseg {__version__}"
html_static_path = ["_static"]
html_css_files = ["pages.css"]
html_show_sourcelink = False
html_copy_source = False
copybutton_prompt_text = "$ "
copybutton_exclude = ".linenos, .gp, .go"
