"""A claim is the same text in terminal, JSON, report and page: of one result, and of one sweep of a model."""

from __future__ import annotations

import html
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from streamlit.testing.v1 import AppTest

from analyses import sweep
from analyses.core import claim
from analyses.core.claim import Claim
from analyses.core.result import Result
from analyses.core.store.store import Store
from apps.command.terminal import show_result
from apps.dashboard.widgets.address import escaped
from apps.report import render
from benchmarks.nulls.rules import RULES
from probe import Item, Prompts
from tests import tiny
from tests.apps.conftest import STEPS, estimate, swept
from tests.apps.test_dashboard import markup, opened


def told_everywhere(
    store: Store, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> list[Claim]:
    """The claims of the one stored result of an analysis, after every place was seen to say them in the same words."""
    (result,) = [store.get(n, k) for n, k in store.addresses() if n == name]
    sentences = [claim.sentence(c) for c in result.claims]
    show_result(store, result, as_json=False)
    terminal = capsys.readouterr().out
    show_result(store, result, as_json=True)
    as_json = json.loads(capsys.readouterr().out)["claims"]
    app = opened(store, monkeypatch, page="Run", answers="true")
    table, cards = " ".join(m.value for m in app.markdown), html.unescape(markup(app))
    report = html.unescape(render(store))
    for sentence in sentences:
        assert f"verdict: {sentence}" in terminal and sentence in report
        assert escaped(sentence) in table and sentence in cards
    assert [c["sentence"] for c in as_json] == sentences
    return result.claims


def test_a_claim_of_a_run_is_the_same_text_everywhere(
    store: Store, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(told_everywhere(store, "over_memorization", monkeypatch, capsys)) > 2


def test_the_claims_of_a_sweep_are_those_of_its_last_step_and_the_same_text_everywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for step in (0, 10, 20):
        tiny.save(tmp_path / "run" / f"checkpoint-{step}", seed=step)
    asked = Prompts(tuple(Item(f"q{i}", f"what is {i} plus 7 ?", " ans", f"g{i % 2}") for i in range(20)))
    store = Store(tmp_path / "results")
    swept = sweep("trajectories", checkpoints=tmp_path / "run", prompts=asked, store=store)
    last = swept.record["members"][-1]
    assert last["step"] == 20 and len(last["claims"]) == len(swept.claims) == 1
    assert claim.sentence(swept.claims[0]) == claim.sentence(claim.from_json(last["claims"][0]))
    assert swept.claims[0].assumptions[-1] == "read at step 20, the last of 3"
    assert told_everywhere(store, "trajectories", monkeypatch, capsys) == swept.claims


def everybody(root: Path) -> dict[str, Result]:
    """A store with what every analysis that claims says, by its own code, of one data set of the zoo.

    The table is no analysis's own, so each result has a name that none has: it is shown from its numbers and claims.
    """
    store, found = Store(root), dict[str, Result]()
    table = pd.DataFrame({"step": STEPS, "item": "a", "value": range(4)})
    data = estimate("value", np.arange(4.0), {"step": list(STEPS)}, "1")
    for name, rule in RULES.items():
        claims = rule.ask(next(iter(rule.plants.values()))(np.random.default_rng((0, 7))))
        told = f"told_{len(found)}"
        record = swept(told, "runs/high", table, data).record | {"members": []}
        found[name] = Result.of(table, data, claims=claims).with_record(**record)
        store.put(found[name])
    return found


def _shown(root: str) -> None:
    """What page Results shows of the claims of every result; Streamlit takes this function's text alone."""
    from pathlib import Path

    from analyses.core.store.store import Store
    from apps.catalog import listing
    from apps.dashboard.widgets import parts

    for entry in listing(Store(Path(root))).entries:
        parts.claims(entry)


def test_claims_of_every_analysis_are_the_same_text_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made, store = everybody(tmp_path), Store(tmp_path)
    app = AppTest.from_function(_shown, args=(str(tmp_path),), default_timeout=60).run()
    assert not app.exception
    page = {str(e.value) for kind in (app.info, app.warning, app.error) for e in kind}
    report = html.unescape(render(store))
    for name, result in made.items():
        sentences = [claim.sentence(c) for c in result.claims]
        assert sentences and store.get(result.analysis, result.key).claims == result.claims, name
        show_result(store, result, as_json=False)
        terminal = capsys.readouterr().out
        show_result(store, result, as_json=True)
        assert [c["sentence"] for c in json.loads(capsys.readouterr().out)["claims"]] == sentences
        for said in sentences:
            assert f"verdict: {said}" in terminal and said in report and escaped(said) in page, name
