"""mkdocs hook: text in angle brackets that a browser takes for a tag, and so does not show, is a warning."""

from __future__ import annotations

import logging
import re
from typing import Any

log = logging.getLogger("mkdocs.hooks.eaten")
TAG = re.compile(r"<([a-z]\w*)[^>]*>", re.IGNORECASE)
TAGS = """a article autoref br button code dd del details div dl dt em h1 h2 h3 h4 h5 h6 hr img input label li ol p
path pre script small span strong sub summary sup svg table tbody td th thead tr ul"""


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """The page as it is; under `--strict` the warning stops the build."""
    for text in unknown(html):
        log.warning("%s: %s is taken for a tag; put it between backticks", page.file.src_uri, text)
    return html


def unknown(html: str) -> list[str]:
    """What stands in the page as a tag and is none that the site uses."""
    return [found[0] for found in TAG.finditer(html) if found[1].lower() not in TAGS.split()]
