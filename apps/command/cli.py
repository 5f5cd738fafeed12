"""The command `probe`. Commands for analyses are read off their signatures; heavy imports wait until needed."""

from __future__ import annotations

import json
import sys
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

import analyses
from analyses.core.homes import homes
from apps.command.completion import keys, run_names
from probe.errors import InputError, ProbeError

if TYPE_CHECKING:
    from analyses.core.analysis import Analysis
    from apps.command.options import Verb

OK, FAILED, BAD_INPUT = 0, 1, 2
results_option = click.option(
    "--results", metavar="DIR", help="Folder of results [default: $PROBE_RESULTS or ./results]."
)
json_option = click.option("--json", "as_json", is_flag=True, help="One line of JSON on standard output.")


class Analyses(click.Group):
    """`probe run`, `probe sweep` and `probe plan`: one subcommand per analysis, built when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(homes())

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        from apps.command import listed

        for question, group in listed.by_question().items():
            with formatter.section(question):
                formatter.write_dl([(of.name, of.title.rstrip(".")) for of in group])

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        from analyses.core import analysis as registry

        name = cmd_name.replace("-", "_")
        if name not in registry.names():
            raise click.UsageError(registry.unknown("analysis", cmd_name, registry.names()))
        return _command(registry.get(name), cast("Verb", ctx.info_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """`probe sweep A B C --checkpoints ...`: several analyses before the first option are swept together."""
        from analyses.core import analysis as registry

        named = list(takewhile(lambda word: word.replace("-", "_") in registry.names(), args))
        if ctx.info_name != "sweep" or len(named) < 2:
            return super().resolve_command(ctx, args)
        from apps.command import options, terminal

        several = [registry.get(word.replace("-", "_")) for word in named]
        command = options.together_command(several, terminal.execute_together([of.name for of in several]))
        return command.name, command, args[len(named) :]


def _command(of: Analysis, verb: Verb) -> click.Command:
    from apps.command import options, planning, terminal

    callback = planning.execute(of) if verb == "plan" else terminal.execute(of, verb == "sweep")
    return options.analysis_command(of, verb, callback)


COMMANDS = {
    "From runs to answers": {
        "study": "Answer the questions about runs: cards, tables, a report.",
        "demo": "Train the tiny lab, then a study of it.",
    },
    "One analysis": {
        "list": "List the analyses by the question they help to answer.",
        "run": "Run an analysis on one checkpoint, or a pair of them.",
        "sweep": "Run analyses over a series of checkpoints.",
        "plan": "Say what a run or a sweep will read, compute, hold and write.",
    },
    "What came out": {
        "show": "Show one result, or list all by run.",
        "query": "Query all tables with SQL.",
        "report": "Write one HTML file to send to a colleague.",
        "dashboard": "Browse the results in a web page.",
        "diff": "Compare two checkpoints, or two results, item by item.",
    },
    "The store": {
        "rm": "Remove results.",
        "gc": "Remove parts of computations that ended, and say their sizes.",
        "export": "Write a folder to share, laid out as a Hugging Face dataset.",
    },
}


class App(click.Group):
    """The commands by what they are for; `study` is built when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return [name for names in COMMANDS.values() for name in names]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name == "study":
            from apps.command.study import command

            return command()
        return super().get_command(ctx, cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        for title, names in COMMANDS.items():
            with formatter.section(title):
                formatter.write_dl(list(names.items()))


@click.group(
    cls=App,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with `probe demo`, then `probe study RUN --prompts FILE`. `probe run perplexity --help` explains.",
)
@click.version_option(package_name="posttrain-probe")
def app() -> None:
    """See what post-training did to a language model: since which step, in which layers, and how sure that is."""


@app.group("run", cls=Analyses)
def run_group() -> None:
    """Run an analysis on one checkpoint, or a pair of them."""


@app.group("sweep", cls=Analyses)
def sweep_group() -> None:
    """Run one analysis or several over a series of checkpoints; interrupted, it goes on where it stopped."""


@app.group("plan", cls=Analyses)
def plan_group() -> None:
    """Say what a run or a sweep will read, compute, hold and write, before any weights are loaded."""


@app.command("list")
@json_option
def list_analyses(as_json: bool) -> None:
    """List the analyses by the question they help to answer: name, what it gives, what it takes."""
    from apps.command import listed

    groups = listed.by_question()
    if as_json:
        found = sorted((of for group in groups.values() for of in group), key=lambda of: of.name)
        click.echo(json.dumps([listed.row(of) for of in found]))
        return
    for question, group in groups.items():
        click.echo(click.style(question, bold=True))
        click.echo("\n".join(map(listed.line, group)) + "\n")


@app.command()
@click.argument("key", required=False, shell_complete=keys)
@click.option("--analysis", help="List only results of this analysis.")
@click.option("--run", metavar="NAME", help="List only results about this run.", shell_complete=run_names)
@results_option
@json_option
def show(key: str | None, analysis: str | None, run: str | None, results: str | None, as_json: bool) -> None:
    """Show one result (KEY, or enough of its beginning), or list all by run."""
    store = analyses.Store.at(results)
    if key is None:
        from apps.command import contents  # alone: models and plans are slow to load

        contents.show_all(store, analysis, run, as_json)
    else:
        from apps.command import terminal

        terminal.show_result(store, store.get(*store.find(key)), as_json)


@app.command()
@click.argument("sql")
@results_option
@json_option
def query(sql: str, results: str | None, as_json: bool) -> None:
    """Query all tables with SQL (DuckDB): a view for each analysis, and the views `results` and `claims`.

    Every view has the columns run, checkpoint, step, prompts, key. Group by run: else the rows of all runs are pooled.

    For example: probe query "SELECT run, step, avg(correct) FROM evaluate GROUP BY run, step ORDER BY run, step"
    """
    rows = analyses.Store.at(results).query(sql)
    for problem in rows.attrs.pop("problems", []):
        click.echo(f"left out: {problem}", err=True)
    if as_json:
        click.echo(rows.to_json(orient="records"))
    else:
        click.echo(rows.to_string(index=False) if len(rows) else "no rows")


@app.command("diff")
@click.argument("a")
@click.argument("b")
@click.option("--analysis", default="perplexity", show_default=True, help="What is asked of two checkpoints.")
@click.option("--prompts", metavar="PATH", help="Items, where A and B are checkpoints.")
@click.option("--limit", type=click.IntRange(min=1), help="Use only the first items.")
@results_option
def diff_command(a: str, b: str, analysis: str, prompts: str | None, limit: int | None, results: str | None) -> None:
    """Compare two checkpoints, or two results (KEY, or KEY@STEP), item by item: what changed, and what most.

    For example: probe diff out/checkpoint-0 out/checkpoint-60 --prompts items.jsonl
    """
    from apps.command.diff import diff

    given = {"prompts": prompts, "limit": limit}
    diff(analyses.Store.at(results), (a, b), analysis, {k: v for k, v in given.items() if v is not None})


@app.command("rm")
@click.argument("named", metavar="KEY...", nargs=-1, shell_complete=keys)
@click.option("--run", metavar="NAME", help="All results about this run.", shell_complete=run_names)
@click.option("--yes", "-y", is_flag=True, help="Do not ask.")
@results_option
def rm(named: tuple[str, ...], run: str | None, yes: bool, results: str | None) -> None:
    """Remove results. What they were computed from is kept, so computing them again takes little: see `probe gc`."""
    from apps.command import contents

    contents.remove(analyses.Store.at(results), named, run, sure=yes)


@app.command()
@click.option("--dry-run", is_flag=True, help="Say what would be removed, and how large it is.")
@results_option
def gc(dry_run: bool, results: str | None) -> None:
    """Remove parts of computations that ended: members of sweeps, shards of items, half-written results."""
    from apps.command import contents

    contents.collect(analyses.Store.at(results), dry_run=dry_run)


@app.command("export")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("named", metavar="[KEY]...", nargs=-1, shell_complete=keys)
@results_option
def export_command(folder: Path, named: tuple[str, ...], results: str | None) -> None:
    """Write tables, claims and records into a new FOLDER, laid out as a Hugging Face dataset, to share."""
    from apps.command.export import export

    for problem in export(analyses.Store.at(results), folder, named):
        click.echo(f"left out: {problem}", err=True)
    click.echo(f"{folder}: datasets.load_dataset({str(folder)!r}, 'claims'), or upload it as it is")


@app.command()
@results_option
@click.option("--out", "-o", type=click.Path(path_type=Path), default="report.html", show_default=True)
def report(results: str | None, out: Path) -> None:
    """Write one self-contained HTML file: verdicts, figures, intervals, provenance, warnings."""
    from apps.report import write_report

    write_report(analyses.Store.at(results), out)
    click.echo(str(out))


@app.command()
@results_option
@click.option("--open", "opened", is_flag=True, help="Open it in a browser.")
@click.option("--port", type=click.IntRange(1, 65535), default=8501, show_default=True)
@click.option(
    "--host",
    default="127.0.0.1",
    show_default=True,
    help="Address to bind; anything but loopback shows your results to the network.",
)
def dashboard(results: str | None, port: int, host: str, opened: bool) -> None:
    """Browse the results in a web page (no torch, no model needed)."""
    from apps.dashboard.serve import serve

    sys.exit(serve(analyses.Store.at(results), host, port, opened=opened))


@app.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default="runs/lab-short",
    show_default=True,
    help="Where the lab's checkpoints go; used as they are if already there.",
)
@results_option
@click.option("--seed", default=0, show_default=True, help="Seed of the training runs.")
def demo(out: Path, results: str | None, seed: int) -> None:
    """Train the tiny lab, then a study of it: cards, tables, report.html, how to open the dashboard."""
    from apps.command.demo import run_demo

    sys.exit(run_demo(out, results, seed))


def main(arguments: list[str] | None = None) -> None:
    """Entry point: exit codes 0, 1 (failed, can be resumed), 2 (bad input)."""
    sys.exit(_code(lambda: app(arguments, standalone_mode=False)))


def _code(command: Any) -> int:
    try:
        outcome = command()
    except click.ClickException as error:
        error.show(sys.stderr)
        return BAD_INPUT
    except ProbeError as error:
        click.echo(f"probe: {error}", err=True)
        return BAD_INPUT if isinstance(error, InputError) else FAILED
    except (KeyboardInterrupt, click.Abort):
        click.echo("probe: stopped; finished parts are kept, run the same command again to go on.", err=True)
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    return outcome if isinstance(outcome, int) else OK


if __name__ == "__main__":
    main()
