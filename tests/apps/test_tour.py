"""Ten minutes in the lab: its figures are made, its words agree with its results, and those are of the lab as it is."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from analyses.core import claim
from tests.conftest import ROOT

TEXT = (ROOT / "docs" / "start" / "tour.md").read_text()


@pytest.fixture(scope="module")
def tour() -> ModuleType:
    """The hook that makes the page."""
    spec = importlib.util.spec_from_file_location("tour", ROOT / "docs" / "tour.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def kept(tour: ModuleType) -> dict[str, Any]:
    return tour.kept()


def test_every_mark_is_made_and_every_figure_shown(tour: ModuleType, kept: dict[str, Any]) -> None:
    marks = tour.MARK.findall(TEXT)
    assert sorted(marks) == sorted(["printed", *tour.FIGURES])
    for draw in tour.FIGURES.values():
        figure = draw(kept)
        assert figure.layout.title.text and any(trace.y is not None and len(trace.y) for trace in figure.data)
    said = tour.printed()
    assert max(map(len, said.splitlines())) <= 110
    stages = [c for name in ("sft-high-stages", "sft-low-stages") for c in kept[name].claims]
    places = [c.what for name in ("place", "place-early") for c in kept[name].claims]
    assert all(words in " ".join(said.split()) for words in map(claim.sentence, stages))
    assert all(words in " ".join(said.split()).replace("Patching", "patching") for words in places)


def test_the_words_are_those_of_the_results(kept: dict[str, Any]) -> None:
    """Numbers and signs in the text, from the results beside it."""
    stages = kept["sft-high-stages"]
    said = {c.kind: c for c in stages.claims}
    assert said["over-memorized"].answer == "none found" and said["over-fit"].answer == "found"
    assert f"since\nstep {said['over-fit'].step:g}," in TEXT and "ship step 0," in said["ship"].what
    first, last = stages.table["accuracy"].iloc[[0, -1]]
    assert f"from {first:.2f} to {last:.2f}".replace("0.", ".") in " ".join(TEXT.split())
    lens = kept["lens"].data["top1"].squeeze().sel(layer=5)
    early, late = (f"{float(lens.sel(step=step)):.2f}".removeprefix("0") for step in (20, 140))
    assert f"{early} at\nstep 20 and {late} at step 140" in TEXT
    ppl = kept["format"].data["ppl"].sel(variant="micro", answer_kind="gold_final")
    change = ppl.sel(step=48) - ppl.sel(step=0)
    for group in ("leaked_true", "leaked_canary", "unseen"):
        signs = [float(change.sel(group=group, mask=m)) for m in ("answer", "answer:first", "answer:number", "prompt")]
        assert signs[0] < 0 and signs[1] < 0 < signs[2] and signs[3] > 0


def test_the_readme_says_what_the_demo_printed(tour: ModuleType, kept: dict[str, Any]) -> None:
    said, readme = (" ".join(text.split()) for text in (tour.printed(), (ROOT / "README.md").read_text()))
    rewarded = said[said.index("grpo-format (") : said.index("planted:")]
    assert "Answers come from memory" in rewarded and "since step 12:" in rewarded
    assert "answer from memory from step 12 on (seen items gain more than unseen ones)" in readme
    assert "Ship step 0," in said and "(ship step 0)" in readme
    assert "blocks 5 and 1, whose outputs carry all of the change" in readme


def test_a_plant_is_named_at_its_block_and_nothing_after_it(kept: dict[str, Any]) -> None:
    for name, layer in (("place", 5), ("place-early", 1)):
        (place,) = (c for c in kept[name].claims if c.answer == "found")
        assert f"MLP output of layer {layer} " in str(place.place) and place.share == pytest.approx(1, abs=1e-3)


@pytest.mark.lab
def test_the_results_are_those_that_the_lab_gives_now(tour: ModuleType, kept: dict[str, Any], lab: Path) -> None:
    """The same questions with the same options on items of the same kinds; digits depend on the machine."""
    made = tour.made(lab)
    assert set(made) == set(kept)
    for name, now in made.items():
        then = kept[name]
        assert (then.analysis, then.record["options"]) == (now.analysis, now.record["options"])
        assert dict(then.data.sizes) == dict(now.data.sizes)
