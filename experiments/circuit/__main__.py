"""Command line: `python -m experiments.circuit --seeds 0,1,2`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from analyses import Store, run
from experiments.circuit.report import FOLDER, write_readme
from probe import Prompts

PAIRS: dict[str, tuple[str, str, tuple[str, str]]] = {
    "planted": ("planted/checkpoint-0", "planted/checkpoint-140", ("planted", "unseen")),
    "grpo-format": ("grpo-format/checkpoint-0", "grpo-format/checkpoint-72", ("leaked_canary", "unseen")),
    "grpo-random": ("grpo-random/checkpoint-0", "grpo-random/checkpoint-72", ("leaked_canary", "unseen")),
}
"""Run of the lab -> (base, tuned, groups of the contrast)."""


def of_pair(folder: Path, name: str, store: Store) -> dict[str, Any]:
    """What cross patching says of one pair, at every token and over the prompt alone."""
    base, tuned, groups = PAIRS[name]
    prompts = Prompts.read(folder / "prompts.jsonl").where(group=groups, answer_kind="gold_final")
    found: dict[str, Any] = {}
    for positions in ("all", "all_prompt"):
        result = run("cross_patching", base=str(folder / base), tuned=str(folder / tuned), prompts=prompts,
                     positions=positions, direction="both", groups=groups, batch_size=32, store=store)  # fmt: skip
        found[positions] = {"verdict": result.verdict, "effects": effects(result, groups[0]),
                            "first_difference": first_difference(result), "differences": differences(result.data),
                            "smallest_p": float(result.data["contrast_p"].min())}  # fmt: skip
    unpatched = result.table.groupby("group")[["metric_base", "metric_tuned"]].mean()
    return found | {"unpatched": json.loads(unpatched.to_json(orient="index"))}


def effects(result: Any, group: str) -> dict[str, list[float]]:
    """Site -> mean effect of each layer in one group, tuned into base."""
    data = result.data["effect"].sel(direction="tuned_to_base", group=group, answer_kind="gold_final")
    return {str(site): [round(float(v), 4) for v in data.sel(site=site)] for site in data["site"].to_numpy()}


def first_difference(result: Any) -> str:
    """The first site, in the order of the forward pass, whose patch changes anything at all."""
    changed = result.table[result.table["effect"] != 0].sort_values(["layer", "site"])
    return "none" if changed.empty else f"{changed.iloc[0]['site']}.{changed.iloc[0]['layer']}"


def differences(data: Any) -> dict[str, dict[str, Any]]:
    """Direction -> place, size and p of the clearest difference between the groups; {} where none was tested."""
    found: dict[str, dict[str, Any]] = {}
    for way in data["direction"].to_numpy():
        tested = data[["contrast", "contrast_t", "contrast_p"]].sel(direction=way, answer_kind="gold_final")
        cells = tested.to_dataframe().dropna().groupby(["site", "layer"]).first()
        found[str(way)] = {}
        if len(cells):
            site, layer = cells["contrast_t"].abs().idxmax()
            value, p = cells.loc[(site, layer), ["contrast", "contrast_p"]]
            found[str(way)] = {"at": f"{site}.{layer}", "value": float(value), "p": float(p)}
    return found


def main(
    seeds: Annotated[str, typer.Option(help="Comma-separated seeds.")] = "0,1,2",
    runs: Annotated[Path, typer.Option(help="Folder with seed-N of the lab.")] = Path("runs/lab"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
) -> None:
    """Patch the lab's checkpoints into each other; write results.json and the README's table."""
    found = {s: {n: of_pair(runs / f"seed-{s}", n, Store.at(results)) for n in PAIRS} for s in seeds.split(",")}
    (FOLDER / "results.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    write_readme(found)


if __name__ == "__main__":
    typer.run(main)
