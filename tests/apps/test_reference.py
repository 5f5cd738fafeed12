"""The generated reference: every source an analysis names can be cited from its page, and nothing else is listed."""

from __future__ import annotations

import html
import importlib.util
import re
from types import ModuleType

import markdown
import pytest

from analyses.answers import labels
from analyses.core import analysis as registry
from analyses.core.claim import ANSWERS
from analyses.core.result import NOT_ASSESSABLE, STAGES
from analyses.memory import perplexity_paradox
from apps.command.options import analysis_command
from tests.conftest import ROOT


def hook(name: str) -> ModuleType:
    """A hook of the site's build."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    """The hook that makes the pages."""
    return hook("reference")


def test_every_cited_paper_has_an_entry_and_every_entry_is_cited(reference: ModuleType) -> None:
    cited = {n for file in (ROOT / "analyses").rglob("*.py") for n in reference.ARXIV.findall(file.read_text())}
    entries = reference.bibliography()
    assert cited == set(entries) and len(cited) > 40
    text = (ROOT / "docs" / "references.bib").read_text()
    assert text.count("@") == len(entries) == len(set(re.findall(r"@misc\{(\w+),", text)))


def test_entries_are_whole(reference: ModuleType) -> None:
    for number, entry in reference.bibliography().items():
        fields = dict(re.findall(r"^  (\w+) = \{(.*)\},$", entry, re.MULTILINE))
        assert set(fields) == {"title", "author", "year", "eprint", "archivePrefix"}, number
        assert fields["eprint"] == number and fields["year"] == f"20{number[:2]}"
        assert all(fields.values()) and entry.count("{") == entry.count("}")


def test_pages_offer_the_bibtex_of_their_sources(reference: ModuleType) -> None:
    pages = {name: reference._page(registry.get(name)) for name in registry.names()}
    assert "```bibtex" in pages["perplexity"] and "eprint = {2601.11061}" in pages["perplexity"]
    for name, page in pages.items():
        named = set(reference.ARXIV.findall(registry.get(name).doc))
        assert named <= set(re.findall(r"eprint = \{(.*)\}", page)), name


def test_formulas_are_shown_as_they_are_written(reference: ModuleType) -> None:
    """`<a - b>` is no tag and `|X|_F / |Y|_F` no emphasis; code between backticks is left alone."""
    shown = markdown.markdown(reference._prose("mean of <grad H, d>, |X|_F * |Y|_F *z, `a_b < _c_`"))
    assert html.unescape(re.sub(r"</?(p|code)>", "", shown)) == "mean of <grad H, d>, |X|_F * |Y|_F *z, a_b < _c_"


def test_text_taken_for_a_tag_is_found() -> None:
    assert hook("eaten").unknown("<p>mean of <grad H, step></p><code>&lt;b&gt;</code>") == ["<grad H, step>"]


def test_commands_on_the_pages_are_those_of_the_command_line(reference: ModuleType) -> None:
    for name in registry.names():
        run, *sweep = reference._commands(registry.get(name)).splitlines()
        for line in (run, *sweep):
            _, _, verb, analysis, *words = line.replace("[", "").replace("]", "").split()
            command = analysis_command(registry.get(analysis), verb)
            known = {flag for option in command.params for flag in option.opts}
            assert {word for word in words if word.startswith("--")} <= known, line
            named = {option.name for option in command.params if option.required}
            assert named <= {word[2:].replace("-", "_") for word in words}, line


def test_the_words_of_verdicts_are_explained() -> None:
    said = [*perplexity_paradox.PATTERNS.values(), perplexity_paradox.NEITHER, *STAGES, NOT_ASSESSABLE, *ANSWERS]
    said += [*labels.LABELS, "anchor", "adapter", "ambiguous", "selective", "answers from memory", "paradox"]
    page = (ROOT / "docs" / "reference" / "words.md").read_text().lower()
    assert not [word for word in said if word not in page]
