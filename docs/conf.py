"""Settings of the documentation: `make docs` builds it into build/docs, without the network."""

import hashlib
import os
import sys
from importlib import metadata
from pathlib import Path

DOCS = Path(__file__).parent
ROOT = DOCS.parent
sys.path.insert(0, str(DOCS / "_extensions"))

# Tutorials run on any machine, and print the same digits on all of them as far as possible.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Where the tutorial of the paper's figures finds `results/`.
os.environ["LREVOPT_ROOT"] = str(ROOT)


def fingerprint() -> str:
    """Hash of what a tutorial's output depends on beside its own text: the package, its versions.

    jupyter-cache compares the code of a tutorial only; a folder for each state of the package
    makes sure that no output is older than the code that it shows.
    """
    files = [*sorted((ROOT / "src").rglob("*.py")), ROOT / "constraints.txt"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


project = "lrevopt"
author = "the lrevopt authors"
release = metadata.version("lrevopt")
version = release

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx_copybutton",
    "sphinx_design",
    "api_pages",
    "mathml",
]
exclude_patterns = ["_extensions", "**/.ipynb_checkpoints"]
root_doc = "index"
nitpicky = True

# MyST and executed tutorials.
myst_enable_extensions = ["attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_update_mathjax = False
html_math_renderer = "mathml"
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / "build" / "docs-executed" / fingerprint())
nb_execution_timeout = 1800  # of one cell, on a busy machine
nb_execution_raise_on_error = True
nb_output_stderr = "remove-warn"
nb_merge_streams = True

# API pages.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints = "signature"
python_display_short_literal_types = True
python_maximum_signature_line_length = 80
add_module_names = False

# Looks.
html_theme = "furo"
html_title = f"lrevopt {release}"
html_static_path = ["_static"]
html_css_files = ["looks.css"]
html_show_sourcelink = False
html_show_copyright = False
html_copy_source = False
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#0072b2",
        "color-brand-content": "#0072b2",
    },
    "dark_css_variables": {
        "color-brand-primary": "#56b4e9",
        "color-brand-content": "#56b4e9",
    },
}
copybutton_exclude = ".linenos, .gp, .go"
