"""A study: everything a question needs is run on the checkpoints of one run or more, each checkpoint read once.

The plan is data (`questions`). One loop goes over the checkpoints of a run and does all that reads one of them, or
one of them and the first; what compares the pair that the curves choose, what reads the log, and what reads results
comes after. Everything is kept in the store as it is finished, so a study that was stopped goes on where it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from analyses.core.analysis import get
from analyses.core.claim import FOUND, NONE, UNJUDGED, Claim, card, row
from analyses.core.progress import interruptible
from analyses.core.result import Result
from analyses.core.running.inputs import Loading, ModelPool
from analyses.core.running.run import Request, answered
from analyses.core.running.study.pairs import fell_most, moved_most
from analyses.core.running.study.questions import NEEDS, USUAL, Ask, asked
from analyses.core.running.study.runs import Run, found
from analyses.core.running.sweep import Sweep, go_over
from analyses.core.running.workers import Engine
from analyses.core.store import Store
from probe import Checkpoint, Prompts
from probe.errors import InputError, ProbeError

QUICK = 24  # problems of the first look of a quick study
ORDER = {FOUND: 0, UNJUDGED: 1, NONE: 2}
ALARM = {"info": 0, "warning": 1, "error": 2}
Options = Mapping[str, Mapping[str, Any]]


@dataclass
class Answers:
    """What one run answered.

    Attributes:
        run: the run.
        results: by the analysis's name.
        refused: analysis -> why its inputs do not suit it; what is missing is not wrong.
        failed: analysis -> what went wrong; the same command goes on there.
        without: analysis -> what would have to be there for it.
    """

    run: Run
    results: dict[str, Result] = field(default_factory=dict[str, Result])
    refused: dict[str, str] = field(default_factory=dict[str, str])
    failed: dict[str, str] = field(default_factory=dict[str, str])
    without: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def claims(self) -> list[tuple[str, Claim]]:
        """(analysis, claim) of all that is said: alarms, what else was found, what cannot be judged, what was not."""
        said = [(name, claim) for name, result in self.results.items() for claim in result.claims]
        return sorted(said, key=lambda one: (ORDER[one[1].answer], -ALARM[str(card(one[1])["tone"])]))


@dataclass
class Study:
    """The runs of a study and what they answered; `loads` lists the checkpoints that were read, in order."""

    answers: list[Answers]
    loads: list[Checkpoint]

    def __getitem__(self, run: str) -> Answers:
        """The answers of the run of this name."""
        return next(a for a in self.answers if a.run.name == run)

    @property
    def claims(self) -> pd.DataFrame:
        """All claims as rows: run, analysis and the fields of a claim."""
        rows = [{"run": a.run.name, "analysis": n, **row(c)} for a in self.answers for n, c in a.claims]
        return pd.DataFrame(rows)


@dataclass(frozen=True)
class Way:
    """How a study is carried out.

    Attributes:
        store: where results go.
        pool: the models, shared by everything.
        engine: who computes the checkpoints.
        shared: options for every analysis that has them.
        own: options of single analyses, by name.
        most: problems of every analysis at most; 0: as the plan says.
        told: called with each run before it is computed.
    """

    store: Store
    pool: ModelPool
    engine: Engine
    shared: Mapping[str, Any]
    own: Options
    most: int = 0
    told: Callable[[Answers], None] = lambda _: None

    def options(self, ask: Ask, run: Run) -> dict[str, Any]:
        """All options of one analysis; what somebody asked for goes before the plan's own."""
        known = {o.name for o in get(ask.analysis).options}
        shared = {**(run.roles if "seen" in ask.needs else {}), **self.shared}
        return {**ask.options, **{k: v for k, v in shared.items() if k in known}, **self.own.get(ask.analysis, {})}

    def items(self, ask: Ask, prompts: Prompts) -> Prompts:
        """The items of one analysis: all, or a random subset of the problems, groups in proportion."""
        problems = len({item.problem for item in prompts.items})
        most = min(self.most or problems, ask.most or problems)
        return prompts if most >= problems else prompts.subset(most)


@interruptible()
def study(
    *runs: str | Path,
    prompts: Prompts | str | Path | None = None,
    questions: Sequence[str] = USUAL,
    store: Store | None = None,
    loading: Loading | None = None,
    engine: Engine | None = None,
    options: Mapping[str, object] | None = None,
    own: Options | None = None,
    most: int = 0,
    told: Callable[[Answers], None] = lambda _: None,
) -> Study:
    """What the runs answer: every analysis that the questions need and the inputs allow, each checkpoint read once.

    Args:
        runs: folders of checkpoints, one for each run.
        prompts: items with answers of one kind; without them only questions about weights and logs are asked.
        questions: some of `memory`, `where`, `entropy`, `ship`, `off`, `mechanism`.
        store: where results go; by default `$PROBE_RESULTS`, or `./results`.
        loading: backend, dtype and device.
        engine: who computes the checkpoints: this process, or workers of a Ray cluster.
        options: options for every analysis that has them, such as `template` or `batch_size`.
        own: options of single analyses: `{"evaluate": {"max_new_tokens": 64}}`.
        most: problems of every analysis at most (a subset, groups in proportion); 0: as the plan says.
        told: called with each run before it is computed, and again when its answers are there.

    Raises:
        InputError: no checkpoints in a folder, an unknown question or option, prompts with several kinds of answers,
            or nothing that can be asked.
    """
    loading = loading or Loading()
    if loading.hold == "one":
        raise InputError(
            "hold='one' with a study: two checkpoints are in memory at once, so that each is read once. Give --device "
            "auto, or run the analyses that have --hold one by one"
        )
    items = _one_kind(Prompts.read(prompts) if isinstance(prompts, str | Path) else prompts)
    asks = asked(questions)
    _check_options(asks, options or {}, own or {})
    pool = ModelPool(loading)
    way = Way(store or Store.at(), pool, engine or Engine(), options or {}, own or {}, most, told)
    answers = [_answers(run, asks, way) for run in found(runs, items, loading)]
    if not any(a.results for a in answers):
        reasons = [why for a in answers for why in (*a.failed.values(), *a.refused.values(), *a.without.values())]
        raise (ProbeError if any(a.failed for a in answers) else InputError)(f"nothing was answered: {reasons[0]}")
    return Study(answers, list(pool.loads))


def _one_kind(prompts: Prompts | None) -> Prompts | None:
    kinds = sorted({item.answer_kind for item in prompts.items}) if prompts else []
    if len(kinds) > 1:
        raise InputError(
            f"the items have several kinds of answers ({', '.join(kinds)}); a study is of one: --answers {kinds[0]}, "
            f"in Python prompts.where(answer_kind={kinds[0]!r})"
        )
    return prompts


def _check_options(asks: Sequence[Ask], shared: Mapping[str, object], own: Options) -> None:
    """An option that no analysis has, or that a named one has not, is told before anything is read."""
    names = {o.name for ask in asks for o in get(ask.analysis).options}
    for name in set(shared) - names:
        raise InputError(f"no analysis of this study has an option {name!r}; they have: {', '.join(sorted(names))}")
    for analysis, options in own.items():
        for name in options:
            get(analysis).option(name)


def split(run: Run, asks: Sequence[Ask]) -> tuple[list[Ask], dict[str, str]]:
    """The analyses that the run's inputs allow, and what the others would need."""
    allowed, without = list[Ask](), dict[str, str]()
    for ask in asks:
        lacking = [NEEDS[need] for need in ask.needs if need not in run.has]
        lacking += [f"{name}, which needs {without[name]}" for name in ask.of if name in without]
        if lacking:
            without[ask.analysis] = lacking[0]
        else:
            allowed.append(ask)
    return allowed, without


def _answers(run: Run, asks: Sequence[Ask], way: Way) -> Answers:
    allowed, without = split(run, asks)
    answers = Answers(run, without=without)
    way.told(answers)
    _swept(answers, [ask for ask in allowed if ask.how in ("series", "first")], way)
    for ask in (a for a in allowed if a.how not in ("series", "first")):
        _alone(answers, ask, way)
    way.told(answers)
    return answers


def _swept(answers: Answers, asks: Sequence[Ask], way: Way) -> None:
    """All analyses of checkpoints, and of each with the first one, in one pass over the series."""
    sweeps = list[Sweep]()
    for ask in asks:
        given = {**_items(answers.run, ask, way), **way.options(ask, answers.run)}
        sweeps.append(Sweep(Request(get(ask.analysis), given, way.store, way.pool), answers.run.series))
    for one in go_over(sweeps, way.engine):
        with _kept(answers, one.name):
            if one.error is not None:
                raise one.error
            result = answers.results[one.name] = one.result()
            if lost := result.record.get("failed"):
                answers.failed[one.name] = "; ".join(f"step {row['step']}: {row['error']}" for row in lost)


def _items(run: Run, ask: Ask, way: Way) -> dict[str, object]:
    takes = any(i.name == "prompts" for i in get(ask.analysis).inputs)
    return {"prompts": way.items(ask, run.prompts)} if takes and run.prompts else {}


def _alone(answers: Answers, ask: Ask, way: Way) -> None:
    """An analysis of results, of a log, or of a pair."""
    missing = [name for name in ask.of if name not in answers.results]
    if missing:
        answers.refused[ask.analysis] = f"there is no result of {missing[0]}"
        return
    with _kept(answers, ask.analysis):
        given = {**dict(_inputs(answers, ask, way)), **way.options(ask, answers.run)}
        answers.results[ask.analysis] = answered(Request(get(ask.analysis), given, way.store, way.pool))


def _inputs(answers: Answers, ask: Ask, way: Way) -> Iterator[tuple[str, Any]]:
    run = answers.run
    yield from ((name, answers.results[name]) for name in ask.of)
    if ask.how == "log":
        yield ("log", run.log) if ask.needs == ("log",) else ("rollouts", run.rollouts)
    elif ask.how == "pair":
        base, tuned = moved_most(run.series, answers.results.get("perplexity"))
        yield from _models(ask, base, tuned)
        yield from _items(run, ask, way).items()
    elif ask.how == "fall":
        assert run.rollouts is not None
        base, tuned = fell_most(run.series, run.rollouts)
        yield from _models(ask, base, tuned)
        yield "rollouts", run.rollouts.where(steps=[int(base.step or 0)])


def _models(ask: Ask, base: Checkpoint, tuned: Checkpoint) -> Iterator[tuple[str, Checkpoint]]:
    """The pair under the names the analysis gives them; one that takes a single model gets the tuned one."""
    names = [i.name for i in get(ask.analysis).inputs if i.kind == "Model"]
    yield from (("base", base), ("tuned", tuned)) if len(names) == 2 else ((names[0], tuned),)


@contextmanager
def _kept(answers: Answers, name: str) -> Iterator[None]:
    """Errors of one analysis are kept beside the answers of the others."""
    try:
        yield
    except InputError as error:
        answers.refused[name] = str(error)
    except ProbeError as error:
        answers.failed[name] = str(error)
