"""The documentation site, which Sphinx builds of the same Markdown files that GitHub shows.

``sphinx-build -W -c docs . build/docs`` writes it. Sphinx reads the whole clone, so that every link
between pages, and from a page to a file of the code, is the same path here as there. What only the
site has is added to a page when it is read: the order of all pages, and the two references, which
are made of the command line's own parsers and of the docstrings. A diagram that GitHub draws is a
table here, because what draws it would have to be loaded from a server.
"""

import re
import shutil
import sys
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

from reference import commands, python_names
from sphinx.application import Sphinx

project = "getiaction-launch"
copyright = "the authors of getiaction-launch, Apache-2.0"  # noqa: A001 - Sphinx's own name
release = version_of("getiaction-launch")
root_doc = "README"
PAGES = {
    "Start": ("docs/getting-started", "docs/how-it-works"),
    "Clusters": (
        "docs/local",
        "docs/slurm",
        "docs/ray",
        "docs/storage",
        "docs/laptop",
        "docs/new-backend",
    ),
    "Guides": (
        "docs/cli",
        "docs/recipes",
        "docs/programs",
        "docs/trainer",
        "docs/policy",
        "docs/data",
    ),
    "What to expect": ("docs/what-can-go-wrong", "docs/security", "docs/benchmarks"),
    "Reference": ("docs/commands", "docs/python"),
    "Project": ("CHANGELOG", "CONTRIBUTING"),
}
include_patterns = ["*.md", "docs/*.md"]
exclude_patterns = [".*", "build", "dist", "experiments", "oldest"]  # need not be looked through
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]

myst_enable_extensions = ["deflist"]
myst_heading_anchors = 4  # as GitHub names them
default_role = "code"  # what docstrings have in single backticks
smartquotes_action = "D"  # dashes between words; quotes stay as they were written
highlight_language = "text"
autodoc_member_order = "bysource"
maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"
copybutton_prompt_text = "$ "

html_theme = "furo"
html_title = f"getiaction-launch {release}"
html_copy_source = False
html_show_sphinx = False
html_static_path = ["static"]
html_css_files = ["site.css"]


def _complete(app: Sphinx, docname: str, source: list[str]) -> None:  # noqa: ARG001 - Sphinx's own
    """Add to a page what only the site has."""
    if docname == root_doc:
        for caption, pages in PAGES.items():
            names = "\n".join(pages)
            source[0] += f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"
    elif docname == "docs/commands":
        source[0] += commands()
    elif docname == "docs/python":
        source[0] += python_names()
    source[0] = re.sub(r"(?ms)^```mermaid\nstateDiagram-v2\n(.*?)^```$", _as_table, source[0])


def _as_table(diagram: re.Match[str]) -> str:
    """Write the transitions of a Mermaid state diagram as a table."""
    found = re.findall(r"(?m)^ +(\S+) --> (\S+?)(?:: (.*))?$", diagram[1])
    inner = ((start, end, when) for start, end, when in found if end != "[*]")
    rows = [f"| {start.replace('[*]', '')} | {end} | {when} |\n" for start, end, when in inner]
    return "".join(["| from | to | when |\n|---|---|---|\n", *rows])


def _name_home(app: Sphinx, exception: Exception | None) -> None:
    """Give the first page the name that servers look for."""
    if exception is None:
        shutil.copy(Path(app.outdir, f"{root_doc}.html"), Path(app.outdir, "index.html"))


def setup(app: Sphinx) -> dict[str, Any]:
    """Connect what completes the pages."""
    app.connect("source-read", _complete)
    app.connect("build-finished", _name_home)
    return {"parallel_read_safe": True}
