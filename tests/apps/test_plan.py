"""`probe plan` is said in the words of `probe run` and `probe sweep`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from analyses import names
from analyses.core import analysis as registry
from analyses.core.cost.plan import Rates, plan
from apps.command.cli import app
from apps.command.options import analysis_command
from tests import tiny

RATES = Rates(1e9, 1e9, 1e9)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("plan")
    tiny.series(made / "series")
    (made / "p.jsonl").write_text('{"id": "a", "prompt": "what is 2 plus 2 ?", "answer": "ans 4"}')
    return made


def called(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What plans are made of, while none is made."""
    found: list[dict[str, Any]] = []

    def noted(name: str, **given: Any) -> Any:
        found.append({"name": name, **given})
        return plan(name, **given, rates=RATES)

    monkeypatch.setattr("apps.command.planning.plan", noted)
    return found


@pytest.mark.parametrize("name", names())
def test_every_word_of_a_run_and_of_a_sweep_is_one_of_a_plan(name: str) -> None:
    of = registry.get(name)
    kinds: dict[str, dict[str, Any]] = {}
    for verb in ("run", "sweep", "plan"):
        for parameter in analysis_command(of, verb).params:
            kinds.setdefault(verb, {}).update(dict.fromkeys(parameter.opts, parameter.type.to_info_dict()))
    assert {**kinds["run"], **kinds["sweep"]}.items() <= kinds["plan"].items() if of.arity != "result" else True
    assert len({o for p in analysis_command(of, "plan").params for o in p.opts}) == sum(
        len(p.opts) for p in analysis_command(of, "plan").params
    ), "no word means two things"


def test_options_have_the_types_a_run_gives_them(folder: Path, asked: list[dict[str, Any]]) -> None:
    series = ["--checkpoints", str(folder / "series"), "--prompts", str(folder / "p.jsonl"), "--json"]
    assert called("plan", "logit_lens", *series, "--top-k", "3").exit_code == 0
    assert asked[-1]["top_k"] == 3
    words = ["--layer", "1", "--threshold", "0.5", "--draws", "7"]
    assert called("plan", "probe_gated_audit", *series, *words).exit_code == 0
    assert {k: asked[-1][k] for k in ("layer", "threshold", "draws")} == {"layer": 1, "threshold": 0.5, "draws": 7}
    assert called("plan", "mlp_key_steering", *series, "--layers", "0,1").exit_code == 0
    assert asked[-1]["layers"] == ("0", "1")


def test_one_checkpoint_a_pair_and_a_series_are_told_apart(folder: Path, asked: list[dict[str, Any]]) -> None:
    one, other = (str(folder / "series" / f"checkpoint-{n}") for n in (0, 10))
    prompts = ["--prompts", str(folder / "p.jsonl"), "--json"]
    by_words = {
        ("perplexity", "--model", one): 1,
        ("perplexity", "--checkpoints", str(folder / "series")): 3,
        ("divergence", "--base", one, "--tuned", other): 1,
        ("divergence", "--checkpoints", str(folder / "series")): 3,
        ("divergence", "--checkpoints", str(folder / "series"), "--pairs", "adjacent"): 2,
        ("divergence", "--checkpoints", str(folder / "series"), "--pairs", "all"): 3,
    }
    for words, members in by_words.items():
        done = called("plan", *words, *prompts)
        assert done.exit_code == 0, done.output
        assert json.loads(done.output)["members"] == members, words


def test_what_cannot_be_planned_says_what_is_wanted(folder: Path) -> None:
    prompts, series = ["--prompts", str(folder / "p.jsonl")], ["--checkpoints", str(folder / "series")]
    both = called("plan", "divergence", *prompts, *series, "--tuned", "x")
    neither = called("plan", "divergence", *prompts)
    for done in (both, neither):
        assert done.exit_code == 2
        assert "--checkpoints SOURCE or --base PATH --tuned PATH" in done.output
    assert "--prompts" in called("plan", "perplexity", *series).output
    assert "'nonsense' is not one of" in called("plan", "perplexity", *prompts, *series, "--score", "nonsense").output
    assert called("plan", "perplexity", *prompts, *series, "--bath-size", "3").exit_code == 2


def test_the_earlier_way_of_naming_options_answers_with_the_new_one(folder: Path) -> None:
    series = ["--checkpoints", str(folder / "series"), "--prompts", str(folder / "p.jsonl")]
    done = called("plan", "logit_lens", *series, "--set", "top_k=3", "--set", "batch_size=2")
    assert done.exit_code == 2
    assert "--top-k 3 --batch-size 2" in done.output
    assert "--set" not in called("plan", "logit_lens", "--help").output


def test_a_model_on_its_own_is_refused_where_a_log_is_wanted() -> None:
    done = called("plan", "labels")
    assert done.exit_code == 1, "an InputError, which the command line turns into exit code 2"
    assert "a plan is made for" in str(done.exception)
