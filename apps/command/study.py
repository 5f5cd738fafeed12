"""`probe study`: from the folders of runs to their answers, by one command or one file."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import click
from click.core import ParameterSource

import analyses
from analyses.core.running.inputs import ModelPool
from analyses.core.running.study.arms import arm_of
from analyses.core.running.study.questions import QUESTIONS, USUAL, asked
from analyses.core.running.study.runs import found
from analyses.core.running.study.study import QUICK, Answers, Study, Way, study
from analyses.core.running.workers import Engine
from analyses.core.store.store import Store
from apps.command import cards, study_file
from apps.command.options import CONFIG_HELP, ENGINE_SETTINGS, MODEL_SETTINGS, Values, flags, joined, read_prompts
from apps.report import write_report
from probe import Prompts
from probe.errors import InputError

Options: TypeAlias = Mapping[str, Any]
"""Values of options by name, as click gave them."""

Given: TypeAlias = dict[str, Any]
"""Values of options by name."""

FAILED = 1
SHARED: dict[str, Given] = {
    "--template": {"help": "How prompts are framed for every analysis: none, chat ... [default: none]."},
    "--boundary": {"help": "How prompt and answer are joined: joint or concat [default: as each analysis does]."},
    "--batch-size": {"type": click.IntRange(min=1), "help": "Items of one forward pass [default: 8]."},
    "--grade": {"help": "How `evaluate` reads responses: auto, math, exact, number ... [default: auto]."},
    "--pattern": {"help": "Regular expression whose group is the answer in a response."},
    "--max-new-tokens": {"type": click.IntRange(min=1), "help": "Tokens a response may have [default: 512]."},
    "--stop": {"multiple": True, "help": "Text at which a response ends; repeatable."},
}
ASKED = f"Some of {', '.join(QUESTIONS)} [default: {', '.join(USUAL)}]."
HOW = ("save", "as_json", "dry_run")
RUN_OPTIONS = tuple(flag.removeprefix("--").replace("-", "_") for flag in SHARED)


def command() -> click.Command:
    """The command, made of the settings that runs and sweeps have too."""
    groups: Given = {"type": Values(str), "multiple": True, "callback": joined}
    every = {**SHARED, **MODEL_SETTINGS, **ENGINE_SETTINGS}
    parameters: list[click.Parameter] = [
        click.Argument(["runs"], nargs=-1, required=True, metavar="RUN..."),
        click.Option(["--prompts"], metavar="PATH", help="Items with answers: JSONL, JSON, CSV, Parquet."),
        click.Option(["--columns"], metavar="NAME|JSON", help="How the prompt file's columns are called."),
        click.Option(["--answers"], metavar="KIND", help="Use answers of this kind, where items have several."),
        click.Option(["--groups"], **groups, help="Use items of these groups only."),
        click.Option(["--seen", "seen"], **groups, help="Groups that training may have shown; others count as not."),
        click.Option(["--questions"], **groups, help=ASKED),
        click.Option(["--quick"], is_flag=True, help=f"First look at {QUICK} problems, then at all of them."),
        click.Option(["--group-by"], metavar="REGEX", help="Runs of which this matches the same are seeds of one arm."),
        click.Option(["--set", "own"], multiple=True, metavar="ANALYSIS.OPTION=VALUE", help="Of one analysis."),
        *(click.Option(flags(flag), **how) for flag, how in every.items()),
        click.Option(["--base", "base_model"], metavar="FOLDER", help="What training started from: step 0."),
        click.Option(["--config", "config_folder"], metavar="FOLDER", help=CONFIG_HELP),
        click.Option(["--results"], metavar="DIR", help="Folder of results [default: $PROBE_RESULTS or ./results]."),
        click.Option(["--report"], metavar="FILE", help="The report [default: report.html]."),
        click.Option(["--save"], metavar="FILE", help="Write this command as a TOML file, and run it."),
        click.Option(["--dry-run"], is_flag=True, help="Say what would be run, and stop."),
        click.Option(["--json", "as_json"], is_flag=True, help="One line of JSON on standard output."),
    ]  # fmt: skip
    text = (
        "Answer the questions about one run or several: find what lies in their folders, read every checkpoint once, "
        "run what the questions need, print what came out, write a report.\n\n"
        "RUN is a folder of checkpoints, or a TOML file that --save wrote."
    )
    return click.Command("study", params=parameters, callback=run, help=text, short_help="Answer the questions.")


def run(runs: tuple[str, ...], **given: Any) -> int:
    """Callback of the command: the exit code."""
    context = click.get_current_context()
    said = {n: v for n, v in given.items() if context.get_parameter_source(n) is not ParameterSource.DEFAULT}
    how = {name: said.pop(name) for name in HOW if name in said}
    return carry_out(study_file.studies(runs, said), **how)


def carry_out(
    studies: Sequence[Options],
    save: str | None = None,
    as_json: bool = False,
    dry_run: bool = False,
) -> int:
    """The studies one after the other into one store, with one report: the exit code.

    Args:
        studies: their words, as in a file; where results and report go is what the first one says.
        save: file that the words are written to.
        as_json: claims as one line of JSON instead of cards.
        dry_run: say what would be run, and stop.
    """
    if save is not None:
        study_file.write(Path(save), studies)
    store, report = Store.at(studies[0].get("results")), studies[0].get("report", "report.html")
    done = [carried_out(one, store, dry_run=dry_run, quiet=as_json) for one in studies]
    if dry_run:
        return 0
    if as_json:
        click.echo(json.dumps([row for one in done for row in json.loads(one.claims.to_json(orient="records"))]))
    write_report(store, report)
    click.echo(f"Report:  {report}", err=as_json)
    click.echo(f"Browse:  probe dashboard --results {store.root} --open", err=as_json)
    return FAILED if any(a.failed for one in done for a in one.answers) else 0


def carried_out(asked_for: Options, store: Store, *, dry_run: bool = False, quiet: bool = False) -> Study:
    """One study from its words: what will be done, the answers, all of it printed unless `quiet`.

    Raises:
        InputError: nothing that can be asked, an unknown word.
    """
    given = dict(asked_for)
    questions = tuple(given.get("questions", USUAL))
    say: Callable[[str], None] = (lambda _: None) if quiet else click.echo
    inputs = _inputs(given)
    asks = asked(questions)
    if "group_by" in given and all(arm_of(Path(run).name, given["group_by"]) is None for run in given["runs"]):
        raise InputError(f"--group-by {given['group_by']!r} matches none of the runs {', '.join(given['runs'])}")
    if dry_run:
        for one in found(given["runs"], inputs["prompts"], inputs["loading"]):
            say("\n".join(cards.intention(one, asks)))
            say(cards.effort_of(one, asks, _way(store, inputs), inputs["loading"]))
        return Study([], [])
    before: set[str] = set()

    def told(answers: Answers) -> None:
        is_start = answers.run.name not in before
        before.add(answers.run.name)
        text = cards.intention(answers.run, asks) if is_start else cards.answers(answers)
        say("\n".join(text) + ("" if is_start else "\n"))

    first = None
    if given.get("quick"):
        say(f"A first look at {QUICK} problems.\n")
        first = study(*given["runs"], questions=questions, store=store, most=QUICK, told=told, **inputs)
        before.clear()
        say("All problems.\n")
    done = study(*given["runs"], questions=questions, store=store, told=told, **inputs)
    _forget(first, done, store)
    study_file.keep(store, asked_for, done)
    if "group_by" in given:
        say(f"Mean and spread over seeds\n{cards.arms(done.answers, given['group_by'])}\n")
    return done


def _forget(first: Study | None, done: Study, store: Store) -> None:
    """Drop what a first look left where the whole answer is there now: nobody should read the two as one."""
    keys = {result.key for answers in done.answers for result in answers.results.values()}
    for answers in first.answers if first else ():
        for name, result in answers.results.items():
            if result.key not in keys and name in done[answers.run.name].results:
                store.drop(name, result.key)


def _inputs(given: Options) -> Given:
    """What `analyses.study` takes, from the words of a command or a file."""
    loading = {name: given[name] for name in analyses.Loading.__dataclass_fields__ if name in given}
    names = {"engine": "name", "workers": "workers", "address": "address"}
    engine = {name: given[word] for word, name in names.items() if word in given}
    shared = {name: given[name] for name in RUN_OPTIONS if name in given}
    return {
        "prompts": _prompts(given),
        "loading": analyses.Loading(**loading),
        "engine": Engine(**engine),
        "options": {name: tuple(v) if isinstance(v, list) else v for name, v in shared.items()},
        "own": own_options(given.get("own", ())),
    }


def _way(store: Store, inputs: Options) -> Way:
    return Way(store, ModelPool(inputs["loading"]), inputs["engine"], inputs["options"], inputs["own"])


def _prompts(given: Options) -> Prompts | None:
    if "prompts" not in given:
        return None
    read = read_prompts(given["prompts"], given.get("columns"))
    items = read if isinstance(read, Prompts) else Prompts.read(read)
    if given.get("groups") or given.get("answers"):
        items = items.where(group=given.get("groups"), answer_kind=given.get("answers"))
    return items.seen(*given["seen"]) if given.get("seen") else items


def own_options(texts: Sequence[str]) -> dict[str, Given]:
    """`ANALYSIS.OPTION=VALUE` texts as options by analysis; values are JSON, anything else is text.

    Raises:
        InputError: a text of another form.
    """
    found: dict[str, Given] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        analysis, dot, option = name.partition(".")
        if not equals or not dot or not option:
            raise InputError(f"--set {text!r}: expected ANALYSIS.OPTION=VALUE, e.g. evaluate.samples=8")
        try:
            read = json.loads(value)
        except json.JSONDecodeError:
            read = value
        found.setdefault(analysis, {})[option.replace("-", "_")] = tuple(read) if isinstance(read, list) else read
    return found
