"""Three papers of entropy on a real run: `python -m experiments.entropy_signals.published PAPER ...`.

`mechanism` (arXiv 2505.22617): covariance of log-probability and advantage, Clip-Cov and KL-Cov as published, the law
that ties reward to entropy. `dynamics` (2602.03392): the discriminator S, Clip_B and Clip_V as published, quadrants of
advantage and S, the change that really happened. `steer` (2510.10150): weights by predicted change, the share of tokens
that would collapse entropy. Each takes a run's checkpoints and its rollout log, and writes tables, figures and claims.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

from analyses import Loading, Result, Store, run
from experiments.written import command, write
from probe import Checkpoint, InputError, Rollouts, RunLog, discover

PUBLISHED: dict[str, dict[str, Any]] = {
    "entropy_covariance": {"clip_ratio": 0.0002, "clip_low": 1.0, "clip_high": 5.0, "kl_fraction": 0.002},
    "entropy_attribution": {"clip_b_mu": 2.5, "clip_v_mu": 8.5, "clip_v_max": 0.0001, "steer_weights": "exp",
                            "steer_min": 0.8, "steer_max": 1.2, "centre": "group"},
    "collapsing_tokens": {"form": "omega"},
}  # fmt: skip
"""What each paper (or its code) sets; options that a paper leaves open stay at their defaults."""


@dataclass(frozen=True)
class Given:
    """A run as it lies on disk: checkpoints (the first and last are compared), rollouts, the log of its scalars."""

    checkpoints: list[Checkpoint]
    rollouts: Rollouts
    log: RunLog | None
    store: Store
    loading: Loading
    batch_size: int = 8

    def pair(self, name: str) -> Result:
        """An analysis of the first and last checkpoint over the log, as published."""
        if len(self.checkpoints) < 2:
            raise InputError(f"{name} compares two checkpoints; given {len(self.checkpoints)}")
        ends = {"base": self.checkpoints[0], "tuned": self.checkpoints[-1], "rollouts": self.rollouts}
        how = {"batch_size": self.batch_size, "store": self.store, "loading": self.loading}
        return run(name, **ends, **PUBLISHED.get(name, {}), **how)

    def of_log(self, name: str) -> Result:
        """An analysis of the rollout log alone, as published."""
        return run(name, rollouts=self.rollouts, store=self.store, **PUBLISHED.get(name, {}))


Found: TypeAlias = dict[str, Result]


def mechanism(given: Given) -> Found:
    """Covariance, selections and the law."""
    found = {name: given.pair(name) for name in ("entropy_covariance", "entropy_change")}
    if given.log is not None:
        found["entropy_reward_law"] = run("entropy_reward_law", log=given.log, store=given.store)
    return found


def dynamics(given: Given) -> Found:
    """Attribution by S with the papers' clips, quadrants of sign, and the measured change."""
    found = {name: given.pair(name) for name in ("entropy_attribution", "entropy_change")}
    return {**found, "sign_quadrants": given.of_log("sign_quadrants")}


def steer(given: Given) -> Found:
    """Weights by predicted change beside the exact one, and the tokens that collapse entropy."""
    found = {"entropy_attribution": given.pair("entropy_attribution")}
    return {**found, "collapsing_tokens": given.of_log("collapsing_tokens")}


PAPERS: dict[str, Callable[[Given], Found]] = {"mechanism": mechanism, "dynamics": dynamics, "steer": steer}


def main(
    paper: Annotated[str, typer.Argument(help="mechanism, dynamics or steer.")],
    checkpoints: Annotated[str, typer.Option(help="Folder with the run's checkpoints.")],
    rollouts: Annotated[Path, typer.Option(help="Folder or file of the run's rollouts.")],
    log: Annotated[Path | None, typer.Option(help="Log of the run's scalars, for the law.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for tables, figures, claims (default: the paper).")] = None,
    results: Annotated[Path, typer.Option(help="Store of results.")] = Path("results"),
    device: Annotated[str, typer.Option(help="Torch device.")] = "cuda",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    batch_size: Annotated[int, typer.Option(help="Responses per batch.")] = 8,
) -> None:
    """Tables, figures and claims of one of the papers for one run of reinforcement learning."""
    if paper not in PAPERS:
        raise typer.BadParameter(f"{paper!r}; expected one of {', '.join(PAPERS)}")
    scalars = RunLog.read(log) if log is not None else None
    loading = Loading(dtype=dtype, device=device)
    given = Given(list(discover(checkpoints)), Rollouts.read(rollouts), scalars, Store.at(results), loading, batch_size)
    folder = out or Path(paper)
    write(PAPERS[paper](given), folder)
    typer.echo((folder / "claims.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    command("entropy_signals", lambda: typer.run(main))
