"""mkdocs hook: pages that are read off the code, so that no fact about an analysis is written twice."""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from typing import Any

import click
from mkdocs.structure.files import File, Files

from analyses.core import analysis as registry
from analyses.core import legacy, published
from analyses.core.cost import fleet
from analyses.core.cost.estimates import flops, work_of
from analyses.core.result import DIMS
from apps.command.cli import app
from apps.command.options import analysis_command
from probe.sites import KINDS, TRANSFORMER_LENS

GIVEN = {
    "checkpoint": "One checkpoint (a sweep: every checkpoint of a run)",
    "pair": "Two checkpoints (a sweep: each against the first)",
    "log": "The log of a run of reinforcement learning",
    "result": "Results of other analyses",
}
ARXIV = re.compile(r"\b\d{4}\.\d{5}\b")


def on_config(config: Any) -> Any:
    """One page an analysis, below the overview."""
    pages = [{name: f"reference/analyses/{name}.md"} for name in registry.names()]
    for section in config["nav"]:
        if "Reference" in section:
            section["Reference"] = [
                {"Analyses": ["reference/analyses.md", *pages]} if "Analyses" in entry else entry
                for entry in section["Reference"]
            ]
    return config


def on_files(files: Files, config: Any) -> Files:
    """The generated pages."""
    for name in registry.names():
        files.append(File.generated(config, f"reference/analyses/{name}.md", content=_page(registry.get(name))))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Tables appended to pages that only introduce them."""
    tables = {
        "reference/analyses.md": _overview,
        "reference/results.md": lambda: _table(("dim", "meaning"), DIMS.items()),
        "reference/sites.md": _sites,
        "reference/cli.md": _cli,
        "scale.md": _scale,
    }
    marked = {"legacy": _legacy, "published": _published, "nulls": _nulls, "operating-points": _operating_points}
    markdown = re.sub(r"<!-- made: ([\w-]+) -->", lambda mark: marked[mark[1]](), markdown)
    made = tables.get(page.file.src_uri)
    return f"{markdown}\n\n{made()}" if made else markdown


def _published() -> str:
    """Printed values of MATH-500 by the share of the question shown, and gains by reward."""
    shown = published.partial_prompts().query("benchmark == 'MATH-500'")
    shown = shown.assign(percent=(100 * shown["value"]).map("{:g}".format))
    wide = shown.pivot_table("percent", ["published", "quantity", "model"], "fraction", "first", sort=False)
    wide = wide[sorted(wide, reverse=True)].fillna("-").reset_index()
    head = ("source", "MATH-500", "model", *(f"{100 * f:.0f} % shown" for f in wide.columns[3:]))
    gains = published.spurious_rewards()[["published", "quantity", "model", "value"]].values.tolist()
    rows = [(source, quantity, model, f"{100 * value:g}") for source, quantity, model, value in gains]
    tables = _table(head, wide.values.tolist()), _table(("source", "MATH-500", "model", "value"), rows)
    return "\n\n".join(tables)


def _legacy() -> str:
    """Every published definition that differs from ours, and how to have it beside ours."""
    head = ("analysis", "ask with", "stands in", "published", "here", "source")
    rows = [
        (f"[{f.analysis}](analyses/{f.analysis}.md)", f"`{f.asked}`" if f.asked else "always there", f"`{f.shown}`",
         f.published, f.ours, f.source)
        for f in legacy.FORMS
    ]  # fmt: skip
    return _table(head, rows)


def _nulls() -> str:
    """Shares of null and planted data sets in which each rule claims something, and of intervals that cover."""
    found = json.loads(Path("benchmarks/nulls/rules.json").read_text())
    shown = [
        (r["rule"], r["data"], *(f"{r['found']:.3f}" if r["kind"] == k else "" for k in ("null", "plant")),
         f"{r['answered']:.2f}", r["sets"], f"{r['ms']:.0f}" if "ms" in r else "")
        for r in found
    ]  # fmt: skip
    covered = json.loads(Path("benchmarks/nulls/coverage.json").read_text())
    rows = [
        (r["what"], r["n"], *("" if r[k] is None else f"{r[k]:.3f}" for k in ("covers", "told", "width")))
        for r in covered
    ]
    tables = (
        _table(("rule: claim", "data", "false claims", "power", "answered", "sets", "ms"), shown),
        "And of 95 % intervals: the share that holds the truth, the share of data sets that had one, and the width "
        "beside that of Student's (n counts items, or templates):",
        _table(("statistic and data", "n", "covers", "told", "width"), rows),
    )
    return "\n\n".join(tables)


def _operating_points() -> str:
    """Share of simulated runs in which one kind of evidence, and the whole rule, find something."""
    found = json.loads(Path("benchmarks/operating_points.json").read_text())
    one = [
        (noise, case, *(f"{rates[k]:.3f}" for k in ("detected", "near", "exact")))
        for noise, cases in found["one_kind"].items()
        for case, rates in cases.items()
    ]
    whole = found["whole_rule"]
    rule = [
        (case, *(f"{rates.get(k, 0):.3f}" for k in ("anchor", "adapter", "ambiguous"))) for case, rates in whole.items()
    ]
    runs = found["settings"]
    return "\n\n".join(
        (
            f"One kind of evidence alone ({runs['runs']} runs each; d in units of this noise):",
            _table(("noise", "case", "found", "within a window", "exactly there"), one),
            f"The whole rule ({runs['rule_runs']} runs each):",
            _table(("case", "anchor", "adapter", "ambiguous"), rule),
        )
    )


def _sites() -> str:
    """Every kind of site in the words of TransformerLens, Hugging Face and nnsight, the latter two for a Llama."""
    from transformers import LlamaConfig, LlamaForCausalLM

    from probe.backends.places import places

    sizes = {"hidden_size": 8, "intermediate_size": 8, "num_attention_heads": 2, "vocab_size": 8}
    found = places(LlamaForCausalLM(LlamaConfig(num_hidden_layers=1, **sizes)))
    at = {site.kind: place for site, place in found.places.items()}
    head = ("kind", "dims", "TransformerLens", "Hugging Face (Llama)", "nnsight (Llama)")
    rows: list[tuple[str, ...]] = []
    for kind, shape in KINDS.items():
        lens = [name for name, of in TRANSFORMER_LENS.items() if of == kind]
        place = at.get(kind)
        module = f"{'input' if place.side == 'in' else 'output'} of `{place.path}`" if place else "-"
        side = {"in": "input", "out": "output"}[place.side] if place else ""
        traced = f"`model.{place.path.replace('.0', '[0]')}.{side}`" if place else "-"
        rows.append((f"`{kind}`", " ".join(_dims(shape)), ", ".join(f"`{n}`" for n in lens) or "-", module, traced))
    return _table(head, rows)


def _dims(kind: Any) -> tuple[str, ...]:
    return tuple(getattr(kind, "dims", kind))


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_cell(c) for c in row)} |" for row in rows)])


def _cell(value: Any) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


def _overview() -> str:
    """One table for each kind of what is given."""
    by_kind: dict[str, list[tuple[str, str, str]]] = {kind: [] for kind in GIVEN.values()}
    for a in map(registry.get, registry.names()):
        logged = any(i.kind in ("Rollouts", "RunLog") and not i.optional for i in a.inputs)
        row = (f"[{a.name}](analyses/{a.name}.md)", _prose(a.title), ", ".join(f"`{i.name}`" for i in a.inputs))
        by_kind[GIVEN["log" if logged else a.arity]].append(row)
    head = ("analysis", "question", "inputs")
    return "\n\n".join(f"## {kind}\n\n{_table(head, rows)}" for kind, rows in by_kind.items())


def _page(of: registry.Analysis) -> str:
    inputs = [(f"`{i.name}`", i.kind, i.upstream or "", "yes" if i.optional else "") for i in of.inputs]
    options = [
        (f"`{o.name}`", ", ".join(map(str, o.choices)) or _type(o), f"`{o.default}`", _prose(o.help))
        for o in of.options
    ]
    first = (of.function.__doc__ or "").partition("Args:")[0]
    sections = "\n\n".join(f"## {h}\n\n{_prose(t)}" for h, t in of.sections.items())
    return (
        f"# {of.name}\n\n{_prose(of.title)}\n\n{_prose(first)}\n\n{sections}\n\n"
        f"## Inputs\n\n{_table(('input', 'kind', 'result of', 'optional'), inputs)}\n\n"
        f"## Options\n\n{_table(('option', 'values', 'default', 'meaning'), options)}\n\n"
        f"## Command\n\n```console\n{_commands(of)}\n```\n\n"
        "Options are written with hyphens, lists with commas; `--help` names those of models and results too.\n"
        f"{_cite(of)}"
    )


def _commands(of: registry.Analysis) -> str:
    """How it is run, and how it is swept where it can be; inputs that may be left out in brackets."""
    lines: list[str] = []
    for sweep in (False, True) if of.arity != "result" else (False,):
        wanted = ["checkpoints", *(i.name for i in of.inputs)]
        given = [p for p in analysis_command(of, "sweep" if sweep else "run").params if p.name in wanted]
        shown = (f"{p.opts[0]} {p.make_metavar(click.Context(app))}" for p in given)
        words = [text if p.required else f"[{text}]" for p, text in zip(given, shown, strict=True)]
        lines.append(f"$ probe {'sweep' if sweep else 'run'} {of.name} {' '.join(words)}")
    return "\n".join(lines)


def _prose(text: str) -> str:
    """Text of a docstring on one line; outside backticks `<`, `*` and `_` are signs of formulas, not markup."""
    parts = " ".join(text.split()).split("`")
    parts[::2] = [re.sub(r"[*_]", r"\\\g<0>", part.replace("<", "&lt;")) for part in parts[::2]]
    return "`".join(parts)


def _cite(of: registry.Analysis) -> str:
    """The sources that the analysis names, as BibTeX."""
    entries, cited = bibliography(), ARXIV.findall(Path(inspect.getfile(of.function)).read_text())
    found = "\n\n".join(entries[number] for number in dict.fromkeys(cited))
    return f"\n## Cite\n\n```bibtex\n{found}\n```\n" if found else ""


def bibliography() -> dict[str, str]:
    """BibTeX entries by arXiv id."""
    entries = re.findall(r"^@.*?^\}", Path(__file__).with_name("references.bib").read_text(), re.MULTILINE | re.DOTALL)
    return {number: entry for entry in entries for number in ARXIV.findall(entry)}


def _type(option: registry.Option) -> str:
    annotation = option.annotation
    return annotation.__name__ if isinstance(annotation, type) else str(annotation).replace("typing.", "")


def _scale() -> str:
    """What one item costs in each analysis, and sweeps over fleets; all from the cost model."""
    heads = (
        "GPUs",
        "groups",
        "compute (h)",
        "reading (h)",
        "generation (h)",
        "together (h)",
        "read",
        "results",
        "bound",
    )
    f = fleet.Fleet(1)
    parts = [
        "## Work of one item",
        f"An item of {fleet.PROMPT} + {fleet.ANSWER} tokens, default options, a 70B shape ({fleet.SHAPE_70B.n_layers} "
        f"blocks of {fleet.SHAPE_70B.d_model}, vocabulary {fleet.SHAPE_70B.d_vocab:,}); all models of a run together.",
        _table(("analysis", "work", "models", "passes", "rows unembedded", "tokens generated", "table rows",
                "bytes a row", "TFLOP", "one at a time"), _costs()),
        f"## {fleet.N_CHECKPOINTS} checkpoints of 70B, {fleet.N_ITEMS:,} items",
        f"Assumed, not measured: {f.flops / 1e12:.0f} TFLOP/s and {f.memory / 1e12:.0f} TB/s of memory for each GPU in "
        f"use, {f.gpu_bytes / 1e9:.0f} GB of its memory, {f.storage / 1e9:.0f} GB/s from storage for all together and "
        f"{f.link / 1e9:.0f} GB/s into a node of eight. bfloat16; pairs against the first checkpoint, both held; "
        "reading is not overlapped with computing.",
    ]  # fmt: skip
    for name in ("perplexity", "divergence", "cross_patching", "evaluate"):
        parts += [f"### {name}", _table(heads, fleet.rows(registry.get(name)))]
    return "\n\n".join(parts)


def _costs() -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for of in map(registry.get, registry.names()):
        if not {"Model", "Prompts"} <= {i.kind for i in of.inputs} or any(i.kind == "Rollouts" for i in of.inputs):
            continue
        case = fleet.large(of)
        work = work_of(of, case)
        counted = ("", "") if work.rows is None else (f"{work.rows:,.0f}", f"{work.row_bytes:.0f}")
        numbers = (work.block_rows / case.full_pass, work.unembedded, work.generated)
        shown = (f"{value:,.0f}" if value >= 1000 else f"{value:.4g}" for value in numbers)
        source = "declared" if of.work else "at least, from its signature"
        row = (of.name, source, str(case.models), *shown, *counted, f"{flops(work, case) / 1e12:,.4g}")
        rows.append((*row, "yes" if of.takes_turns else ""))
    return rows


def _cli() -> str:
    context = click.Context(app, info_name="probe")
    parts: list[str] = []
    for name in app.list_commands(context):
        command = app.get_command(context, name)
        assert command is not None
        own = click.Context(command, info_name=name, parent=context)
        parts.append(f"## probe {name}\n\n```text\n{command.get_help(own)}\n```")
    return "\n\n".join(parts)
