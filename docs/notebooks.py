"""mkdocs hook: every notebook as a page with its outputs; beside each question its own, and what would overturn it."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files, InclusionLevel

FOLDER, PAGES, APPENDIX = "questions/", "notebooks/", Path("experiments/appendix")
HEADING = "## What would overturn this"
EXPERIMENT = re.compile(r'"(experiments/\w+)/README\.md"')  # a question's page is that README
SHOWN = "NOTEBOOK-OUTPUT-{}-END"  # stands in the text for HTML, which Markdown must not read
HELD = re.compile(r"<p>NOTEBOOK-OUTPUT-(\d+)-END</p>")

_html: list[str] = []


def on_files(files: Files, config: Any) -> Files:
    """The README's links to its notebook and figure hold on the site too; every notebook is a page."""
    pages = {p: f.src_uri for f in files if f.src_uri.startswith(FOLDER) for p in [_notebook_of(f)] if p}
    pages |= dict.fromkeys(sorted(APPENDIX.glob("*.ipynb")), "start/notebooks.md")
    for notebook, home in pages.items():
        text = "".join(markdown(json.loads(notebook.read_text(encoding="utf-8")), f"../{home}"))
        page = File.generated(config, f"{PAGES}{notebook.stem}.md", content=text, inclusion=InclusionLevel.NOT_IN_NAV)
        files.append(page)
        if home.startswith(FOLDER):
            for shown in (notebook, notebook.with_suffix(".svg")):
                files.append(File.generated(config, FOLDER + shown.name, abs_src_path=str(shown.resolve())))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """A question's page, its notebook, and the notebook's section on what would overturn it."""
    if not page.file.src_uri.startswith(FOLDER):
        return markdown
    notebook = notebook_of(markdown)
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    texts = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    (section,) = [text[text.index(HEADING) :] for text in texts if HEADING in text]
    section = section.replace("](README.md)", f"]({Path(page.file.src_uri).name})")
    return f"{markdown}\n\n[The notebook with its outputs](../{PAGES}{notebook.stem}.md)\n\n{section}"


def on_page_content(html: str, **_: Any) -> str:
    """The outputs where they belong."""
    return HELD.sub(lambda found: _html[int(found[1])], html)


def markdown(notebook: Mapping[str, Any], home: str) -> Iterator[str]:
    """A notebook as the text of a page: its words, its code, what came out.

    Args:
        notebook: as JSON.
        home: the page that its README is.
    """
    for cell in notebook["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield source.replace("](README.md)", f"]({home})") + "\n\n"
            continue
        yield f"```python\n{source}\n```\n\n"
        for output in cell["outputs"]:
            yield _shown(output) + "\n\n"


def _shown(output: Mapping[str, Any]) -> str:
    """One output: a picture, else HTML, else text."""
    data = output.get("data", {})
    if "image/svg+xml" in data:
        picture = base64.b64encode("".join(data["image/svg+xml"]).encode()).decode()
        return _held(f'<img alt="figure of the cell above" src="data:image/svg+xml;base64,{picture}">')
    if "text/html" in data:
        return _held(f'<div style="overflow-x:auto">{"".join(data["text/html"])}</div>')
    return f"```text\n{''.join(output.get('text', data.get('text/plain', ''))).rstrip()}\n```"


def _held(html: str) -> str:
    _html.append(html)
    return SHOWN.format(len(_html) - 1)


def _notebook_of(file: File) -> Path | None:
    return notebook_of(file.content_string) if file.is_documentation_page() else None


def notebook_of(page: str) -> Path:
    """The one notebook in the folder whose README the page is."""
    (folder,) = EXPERIMENT.findall(page)
    (notebook,) = Path(folder).glob("*.ipynb")
    return notebook
