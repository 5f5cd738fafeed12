"""Page Pictures: which results a picture is drawn from, lines of several results in one, commands for what lacks."""

from __future__ import annotations

from pathlib import Path

import pytest

from analyses.core.analysis import get, names
from analyses.core.store.store import Store
from apps.catalog import listing
from apps.drawn import pictures
from tests.apps.conftest import charts, key, lens
from tests.apps.test_dashboard import opened, words
from tests.apps.test_exports import pasted, ran

BY_TITLE = {p.title: p for p in pictures.PICTURES}
ALONE = BY_TITLE["What MLP and attention say alone"]
SCALED = BY_TITLE["The answer along layers under alpha"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Lenses of one run that differ in one option each."""
    store = Store(tmp_path_factory.mktemp("pictures"))
    for number, (option, value) in enumerate(
        [("seed", 0), ("site", "mlp_out"), ("site", "attn_out"), ("scaled", ["mlp_post.1=0.5"]), ("site", "mlp_out")]
    ):
        result = lens("runs/high", 0.05)
        record = {"options": {**result.record["options"], option: value}, "key": key(number, option)}
        store.put(result.with_record(**record, started=f"2026-01-01T00:00:0{number}+00:00"))
    return store


def test_every_picture_is_of_an_analysis_and_has_a_name_of_its_own():
    assert {p.analysis for p in pictures.PICTURES} <= set(names())
    assert len({p.name for p in pictures.PICTURES}) == len(pictures.PICTURES)
    for picture in pictures.PICTURES:
        known = {o.name for o in get(picture.analysis).options}
        assert not picture.joined or picture.joined in known
        assert pictures.made_by(picture).startswith(f"probe run {picture.analysis} --")


def test_a_picture_joins_the_newest_results_that_differ_in_its_option_alone(made):
    entries = listing(made).entries
    alone = pictures.sources(ALONE, entries)
    assert [(pictures.value(e, "site"), e.key, at) for e, at in alone] == [
        ("mlp_out", key(4, "site"), {"step": 90}),
        ("attn_out", key(2, "site"), {"step": 90}),
    ]
    assert [pictures.value(e, "scaled") for e, _ in pictures.sources(SCALED, entries)] == ["as is", "mlp_post.1=0.5"]
    plain = [e for e in entries if not e.options]
    assert pictures.sources(SCALED, plain) == [] == pictures.sources(ALONE, plain)
    assert pictures.sources(BY_TITLE["Where two groups part"], entries) == []


def test_lines_of_several_results_are_probabilities_by_layer(made):
    of = pictures.sources(SCALED, listing(made).entries)
    found = {pictures.value(e, "scaled"): made.get(e.analysis, e.key).where(**at) for e, at in of}
    figure, rows = pictures.joined(SCALED, found)
    assert {t.name for t in figure.data if t.mode and "markers" in t.mode} == set(found)
    assert rows["value"].between(0, 1).all() and set(rows["unit"]) == {"fraction"}


def test_figures_that_do_not_fit_wait():
    assert pictures.fitting([1600, 1600]) == 1 == pictures.fitting([4000, 300])
    assert pictures.fitting([380] * 10) == 7


def test_the_page_draws_what_is_there_and_says_how_to_make_the_rest(made, monkeypatch, tmp_path: Path):
    app = opened(made, monkeypatch, page="Pictures", missing="true", code="true")
    assert len(charts(app)) == 2
    told = words(app)
    assert "probe run trajectories --model ... --prompts ..." in told and SCALED.title in told
    assert set(ran(pasted(app), tmp_path, monkeypatch)) == {ALONE.name, SCALED.name}
