"""Command line: `python -m experiments.perplexity_paradox lab` and `... published --base ... --tuned ...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from analyses import Loading, Store
from experiments.perplexity_paradox import lab as on_lab
from experiments.perplexity_paradox import published as setting
from experiments.perplexity_paradox.report import FOLDER, write_readme
from experiments.written import command, write

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)


@app.command()
def lab(
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0,1,2",
    runs: Annotated[Path, typer.Option(help="Folder with seed-N of the lab.")] = Path("runs/lab"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
) -> None:
    """Analyse the lab's GRPO runs and write results.json and the README's tables."""
    path = FOLDER / "results.json"
    found = json.loads(path.read_text()) if path.is_file() else {}
    for seed in seeds.split(","):
        folder = runs / f"seed-{seed}"
        if not folder.is_dir():
            typer.echo(f"seed {seed}: no lab at {folder}, left out", err=True)
            continue
        measured = on_lab.of_seed(folder, Store.at(results))
        found[seed] = {
            "runs": measured,
            "held": on_lab.held(measured),
            "from_truth": on_lab.against_truth(measured, int(seed)),
        }
    path.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    write_readme(found)
    typer.echo(json.dumps({seed: of["held"] for seed, of in found.items()}))


@app.command()
def published(
    base: Annotated[str, typer.Option(help="Base checkpoint: folder or hub repository.")],
    tuned: Annotated[list[str], typer.Option(help="RLVR checkpoint (repeat, in order of training).")],
    benchmarks: Annotated[
        Path, typer.Option(help="Folder with math500.json, minerva_math.jsonl, amc.json, aime24.json.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and claims.")] = Path("perplexity_paradox"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    limit: Annotated[int | None, typer.Option(help="Only the first questions of each benchmark.")] = None,
    samples: Annotated[int, typer.Option(help="Samples per question at T = .6.")] = 8,
    max_new_tokens: Annotated[int, typer.Option(help="Limit of every response.")] = 3072,
    batch_size: Annotated[int, typer.Option(help="Items per batch.")] = 16,
    templates: Annotated[str, typer.Option(help="chat, none or both, the labels' own first.")] = "chat,none",
) -> None:
    """Perplexity, paradox, accuracy under two templates, labels and partial prompts of the published setting."""
    how = setting.Setting(
        max_new_tokens, samples, batch_size=batch_size, limit=limit, templates=setting.templates(templates)
    )
    loading = Loading(dtype=dtype, device=device)
    found = setting.study(setting.series(base, tuned), benchmarks, Store.at(results), loading, how)
    write(found, out)
    typer.echo((out / "claims.md").read_text(encoding="utf-8"))


def main() -> None:
    """Exit code 2 with one line for bad input, as `probe` has it."""
    command("perplexity_paradox", app)


if __name__ == "__main__":
    main()
