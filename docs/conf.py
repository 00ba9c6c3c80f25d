"""How Sphinx makes a site of the documents: `sphinx-build -c docs . SITE`, in the repository.

The pages are the Markdown files as they lie in the repository, so that their links hold there and on a code host. Links
to other files become downloads.
"""

project = "Lethe"
copyright = "the Lethe authors, Apache-2.0"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "README.md",
    "docs/**.md",
    "config/README.md",
    "results/README.md",
    "resources/emoji/README.md",
    "resources/published/README.md",
]
exclude_patterns = ["**/.venv", "**/node_modules"]

html_theme = "furo"
html_title = "Lethe"
templates_path = ["_templates"]
html_additional_pages = {"index": "to_index.html"}

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
