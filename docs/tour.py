"""mkdocs hook: what "Ten minutes in the lab" prints and draws, from results of the short lab that lie beside the page.

`python docs/tour.py` makes them again from `runs/lab-short` (`make demo`), and keeps what the demo printed. Of each
result the aggregates and the record are kept; rows only where a figure needs them.
"""

from __future__ import annotations

import io
import re
import shutil
import textwrap
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
from mkdocs.structure.files import File, Files
from mkdocs.utils import get_relative_url
from plotly.offline import get_plotlyjs

from analyses.core.figures import curve
from analyses.core.result import Result
from analyses.core.running.run import run
from analyses.core.running.sweep import sweep
from analyses.core.store.store import Store
from apps.command import demo

PAGE = "start/tour.md"
SCRIPT = "assets/plotly.min.js"  # of this site: no request to another host
KEPT = Path(__file__).parent / "start" / "lab-short"
PRINTED = KEPT / "printed.txt"
LAB = Path("runs/lab-short/seed-0")
MARK = re.compile(r"<!-- lab: ([\w-]+) -->")
RUNS = {"sft-high": "fine-tuning at 2e-3", "sft-low": "fine-tuning at 1e-4"}
MASKS = ["answer", "answer:first", "answer:number", "prompt"]


def on_files(files: Files, config: Any) -> Files:
    """Plotly's script."""
    files.append(File.generated(config, SCRIPT, content=get_plotlyjs()))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """What `make demo` prints."""
    if page.file.src_uri != PAGE:
        return markdown
    return markdown.replace("<!-- lab: printed -->", f"```\n{printed()}\n```")


def on_page_content(html: str, page: Any, **_: Any) -> str:
    """Every mark as its figure."""
    if page.file.src_uri != PAGE:
        return html
    found = kept()
    look = {"full_html": False, "include_plotlyjs": False, "config": {"responsive": True, "displaylogo": False}}
    script = f'<script src="{get_relative_url(SCRIPT, page.url)}"></script>\n'
    return script + MARK.sub(lambda mark: FIGURES[mark[1]](found).to_html(div_id=mark[1], **look), html)


def kept() -> dict[str, Result]:
    """The results beside the page, by name."""
    stores = {folder.name: Store(folder) for folder in sorted(KEPT.iterdir()) if folder.is_dir()}
    return {name: store.get(*next(store.addresses())) for name, store in stores.items()}


def printed() -> str:
    """What `make demo` printed, long lines broken."""
    lines = PRINTED.read_text(encoding="utf-8").strip().splitlines()
    return "\n".join(
        textwrap.fill(line, 110, subsequent_indent="  ", break_on_hyphens=False) if len(line) > 110 else line
        for line in lines
    )


def _perplexity(found: dict[str, Result]) -> Any:
    rows = pd.concat([found[name].summary().assign(run=told) for name, told in RUNS.items()])
    rows = rows.query("quantity == 'ppl' and variant == 'micro' and mask == 'answer'")
    return curve(rows, x="step", color="run", title="Test perplexity of valid rationales, 95 % interval over items")


def _format(found: dict[str, Result]) -> Any:
    rows = found["format"].summary().query("quantity == 'ppl' and variant == 'micro' and group != 'planted'")
    rows = rows[rows["mask"].isin(MASKS)]
    return curve(rows, x="step", color="mask", facet="group", log_y=True, title="Rewarded for the format: perplexity")


FIGURES: dict[str, Callable[[dict[str, Result]], Any]] = {
    "perplexity": _perplexity,
    "accuracy": lambda found: found["sft-high-stages"].figures()["accuracy"],
    "log-perplexity": lambda found: found["sft-high-stages"].figures()["log_ppl"],
    "place": lambda found: found["place"].figures()["effect"],
    "place-early": lambda found: found["place-early"].figures()["effect"],
    "lens": lambda found: found["lens"].figures()["top1"],
    "format": _format,
}


def made(lab: Path) -> dict[str, Result]:
    """The page's results, computed on the lab or found in its store."""
    from probe import Prompts

    store, test = Store(lab / "results"), lab / "sft_test.jsonl"
    final = Prompts.read(lab / "prompts.jsonl").where(answer_kind="gold_final")
    found: dict[str, Result] = {}
    for name in RUNS:
        found[name] = sweep("perplexity", checkpoints=lab / name, prompts=test, store=store, batch_size=32)
        graded = sweep("evaluate", checkpoints=lab / name, prompts=test, store=store, **demo.SHARED)
        read: dict[str, Any] = {"perplexity": found[name], "evaluate": graded}
        found[f"{name}-stages"] = run("over_memorization", **read, unparsed="wrong", store=store)
    planted = final.where(group="planted")
    for name, of in (("place", "planted"), ("place-early", "planted-early")):
        ends: dict[str, Any] = {"base": lab / of / "checkpoint-0", "tuned": lab / of / "checkpoint-140"}
        found[name] = run("cross_patching", **ends, positions="all", prompts=planted, store=store)
    found["lens"] = sweep("logit_lens", checkpoints=lab / "planted", prompts=planted, store=store, batch_size=32)
    found["format"] = sweep("perplexity", checkpoints=lab / "grpo-format", prompts=final, store=store, batch_size=32)
    return found


def main() -> None:
    """Write the page's results, and what the demo prints, beside it."""
    said = io.StringIO()
    with redirect_stdout(said):
        demo.run_demo(LAB.parent, None, 0)
    found = made(LAB)
    shutil.rmtree(KEPT, ignore_errors=True)
    for name, result in found.items():
        rows = result.table if name.endswith("-stages") else result.table.head(0)
        Store(KEPT / name).put(replace(result, rows=rows))
    PRINTED.write_text(said.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    main()
