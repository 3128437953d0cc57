"""Sphinx: pages are Markdown, the reference is made from docstrings, and a warning is an error (`make docs`)."""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "docs")]

import bnncc  # noqa: E402

project = "bnncc"
release = version = bnncc.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "reference", "specification"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["deflist"]
myst_heading_anchors = 3

# Docstrings put code into single backticks; what names something of ours becomes a link.
default_role = "py:obj"
nitpicky = True
# Names of other packages, whose pages are elsewhere, and type variables.
nitpick_ignore_regex = [("py:.*", r"(?!bnncc\.).*"), ("py:class", r"bnncc\..*\.[A-Z]")]
suppress_warnings = ["ref.python"]  # short names that several modules define
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "ignore-module-all": True, "exclude-members": "__init__, __new__"}
add_module_names = False
smartquotes = False
maximum_signature_line_length = 90
napoleon_numpy_docstring = False

html_theme = "furo"
pygments_dark_style = "github-dark"
html_title = "bnncc"
html_static_path = ["_static"]
html_css_files = ["bnncc.css"]
html_show_copyright = False
html_show_sphinx = False
html_copy_source = False
html_show_sourcelink = False
