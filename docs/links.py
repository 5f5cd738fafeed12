"""mkdocs hook: files of the repository that are pages here, with their links pointing at pages."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import Files

INCLUDED = re.compile(r'^--8<-- "(.+)"$', re.MULTILINE)
FENCED = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)  # code is shown as it stands
HEADING = re.compile(r"^(#+ )", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#|mailto:)([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, files: Files, **_: Any) -> str:
    """The page with the files it includes written out."""
    all_pages = files.documentation_pages()
    pages = {included: f.src_uri for f in all_pages for included in INCLUDED.findall(f.content_string)}
    below = "#" if markdown.startswith("# ") else ""  # the page's own title stands above what it includes

    def text(found: re.Match[str]) -> str:
        parts = FENCED.split(Path(found[1]).read_text(encoding="utf-8"))
        prose = (_moved(part, Path(found[1]), page.file.src_uri, pages, files) for part in parts[::2])
        parts[::2] = [HEADING.sub(rf"{below}\1", part) for part in prose]
        return "".join(parts)

    return INCLUDED.sub(text, markdown)


def _moved(text: str, file: Path, home: str, pages: dict[str, str], files: Files) -> str:
    """Text of a file, its links as they must be on the page `home`; those to files that are no page lose their link."""

    def link(found: re.Match[str]) -> str:
        image, label, target, place = found[1], found[2], found[3], found[4] or ""
        named = os.path.normpath(file.parent / target)
        at = pages.get(named, os.path.relpath(named, "docs"))
        if files.get_file_from_path(at) is None:  # beside the page: a notebook, a figure
            at = os.path.normpath(Path(home).parent / target)
        if files.get_file_from_path(at) is None:
            return f"{label} (`{named}`)"
        return f"{image}[{label}]({os.path.relpath(at, Path(home).parent)}{place})"

    return LINK.sub(link, text)
