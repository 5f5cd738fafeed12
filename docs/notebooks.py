"""mkdocs hook: each question's notebook and figure beside its page, and below it what would overturn the answer."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

FOLDER = "questions/"
HEADING = "## What would overturn this"
EXPERIMENT = re.compile(r'"(experiments/\w+)/README\.md"')  # a question's page is that README


def on_files(files: Files, config: Any) -> Files:
    """The README's links to its notebook and figure hold on the site too."""
    for page in [f for f in files if f.src_uri.startswith(FOLDER) and f.is_documentation_page()]:
        notebook = notebook_of(page.content_string)
        for shown in (notebook, notebook.with_suffix(".svg")):
            files.append(File.generated(config, FOLDER + shown.name, abs_src_path=str(shown.resolve())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """The page, and the notebook's section on what would overturn it."""
    if not page.file.src_uri.startswith(FOLDER):
        return markdown
    cells = json.loads(notebook_of(markdown).read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    (section,) = [text[text.index(HEADING) :] for text in texts if HEADING in text]
    return f"{markdown}\n\n{section}".replace("](README.md)", f"]({Path(page.file.src_uri).name})")


def notebook_of(page: str) -> Path:
    """The one notebook in the folder whose README the page is."""
    (folder,) = EXPERIMENT.findall(page)
    (notebook,) = Path(folder).glob("*.ipynb")
    return notebook
