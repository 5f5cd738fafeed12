"""Inside the published pair (arXiv 2601.11061): `python -m experiments.perplexity_paradox.inside --base ...`.

The paper's figures of where a gain sits, each by its own analysis, for two groups of one prompt file (leaked and
stable by its rule, or any two): patching between the checkpoints, divergence, the lens of the stream and of MLPs alone,
separation of paths with and without a fitted field, linear probes, sizes of keys, resets of blocks, and keys of every
layer scaled by every alpha beside their placebos. Doses, layers and pooling are the paper's; draws are ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

import analyses
from analyses import Loading, Result, Store
from experiments.written import command, write
from probe import Checkpoint, InputError, Prompts

PUBLISHED: dict[str, dict[str, Any]] = {
    "cross_patching": {"sites": ("attn_out", "mlp_out"), "positions": "all_prompt", "direction": "both"},
    "divergence": {"variant": "before_after"},
    "counterfactual_mlp": {},
    "weight_reset": {},
    "logit_lens": {"site": "resid_post"},
    "logit_lens_mlp": {"site": "mlp_out"},
    "trajectories": {"pooling": "last_prompt"},
    "neural_ode": {"pooling": "last_prompt"},
    "linear_probe": {"pooling": "last_prompt"},
    "key_size": {"pooling": "last_prompt"},
    "mlp_key_steering": {"layers": ("all",), "top_n": 10, "bonus": 10.0, "alphas": (0.0, 0.2, 0.5, 1.0, 1.5, 2.0, 3.0)},
}
"""Name of each result and the paper's options; the analysis is the name without what follows `logit_lens`."""


@dataclass(frozen=True)
class Setting:
    """What the paper leaves open.

    `more`: options by result; `left_out`: results that are not made.
    """

    batch_size: int = 8
    seed: int = 0
    more: Mapping[str, Mapping[str, Any]] = field(default_factory=dict[str, Mapping[str, Any]])
    left_out: tuple[str, ...] = ()


def study(
    base: Checkpoint, tuned: Checkpoint, prompts: Prompts, store: Store, loading: Loading, how: Setting
) -> dict[str, Result]:
    """All results by name; finished parts are taken from the store.

    Raises:
        InputError: other than two groups of items.
    """
    if len(prompts.groups) != 2:
        raise InputError(f"{prompts.source} has groups {list(prompts.groups)}; the figures compare two")
    found: dict[str, Result] = {}
    for name, options in PUBLISHED.items():
        if name in how.left_out:
            continue
        of = analyses.get("logit_lens" if name.startswith("logit_lens") else name)
        models = {"base": base, "tuned": tuned} if of.arity == "pair" else {"model": tuned}
        given = {**models, "prompts": prompts, "batch_size": how.batch_size, "seed": how.seed, **options}
        given |= how.more.get(name, {})
        if name == "mlp_key_steering":
            given["targets"] = (prompts.groups[0],)
        found[name] = analyses.run(of.name, **given, store=store, loading=loading)
    return found


def main(
    base: Annotated[str, typer.Option(help="Base checkpoint: folder or hub repository.")],
    tuned: Annotated[str, typer.Option(help="Tuned checkpoint.")],
    prompts: Annotated[Path, typer.Option(help="Items of two groups, with answers.")],
    out: Annotated[Path, typer.Option(help="Folder for tables, figures and claims.")] = Path("inside"),
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    batch_size: Annotated[int, typer.Option(help="Items per batch.")] = 8,
    left_out: Annotated[str, typer.Option(help="Comma-separated results that are not made.")] = "",
) -> None:
    """Tables, figures and claims of the paper's inside for one pair of checkpoints."""
    how = Setting(batch_size, left_out=tuple(n for n in left_out.split(",") if n))
    loading = Loading(dtype=dtype, device=device)
    pair = Checkpoint.of(base), Checkpoint.of(tuned)
    write(study(*pair, Prompts.read(prompts), Store.at(results), loading, how), out)
    typer.echo((out / "claims.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    command("inside", lambda: typer.run(main))
