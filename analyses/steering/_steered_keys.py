"""Given neurons are steered: their keys scaled by every dose, beside placebos, on forced answers and on responses."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from analyses.core.reading.grading import grader
from analyses.steering._arms import PLACEBOS, Placebos, completions, drawn_neurons, key_arms, responses
from analyses.steering._plain_gate import prove_keys
from probe.errors import InputError

if TYPE_CHECKING:
    import pandas as pd

    from analyses.steering._arms import EditedRun
    from analyses.steering._neurons import Selection
    from probe import Model, Prompts
    from probe.replay import Clean


@dataclass(frozen=True)
class Steering:
    """Neurons of some layers, and what is done to them.

    `treatment`: name of the arm; `chosen`: its neurons; `doses`: factors of their keys; `against`: each layer's
    placebos.
    """

    treatment: str
    chosen: Selection
    doses: Sequence[float]
    against: Mapping[int, Placebos]

    def runs(self, clean: Clean) -> Iterator[EditedRun]:
        """All runs of one batch: treatment and placebos of every layer at every dose."""
        for layer, placebos in self.against.items():
            mask = self.chosen.mask(layer, clean.batch)
            yield from key_arms(clean, layer, self.doses, self.treatment, mask, placebos)

    def measured(self, model: Model, prompts: Prompts, tokenized: Mapping[str, Any]) -> pd.DataFrame:
        """A row per run and item: layer, arm, draw, alpha, item, group, answer_kind, metric (nats per token).

        Args:
            model: the checkpoint; what is edited is proved on its first batch.
            prompts: items to measure.
            tokenized: how batches are made of them (batch_size, template, boundary).
        """
        batches, layers = model.batches(prompts, **tokenized), list(self.against)
        prove_keys(model, batches[0], {n: self.chosen.mask(n, batches[0]) for n in (layers[0], layers[-1])})
        return responses(model, batches, self.runs, what="MLP key steering")

    def answered(self, model: Model, prompts: Prompts, grade: str, pattern: str | None, **how: Any) -> pd.DataFrame:
        """Greedy responses under the treatment and the first draw of each neuron placebo, graded.

        Args:
            model: the checkpoint.
            prompts: items.
            grade: how responses are graded.
            pattern: where the answer stands in a response.
            how: of `_steered_generation.steered_completions`.
        """
        arms = {n: (self.treatment, self.chosen, placebos) for n, placebos in self.against.items()}
        return completions(model, prompts, arms, self.doses, grader(grade, pattern), **how)


def placebos_of(
    chosen: Selection, layer: int, names: Sequence[str], draws: int, seed: int, warnings: list[str]
) -> Placebos:
    """A layer's placebos; one for which too few other neurons are left is left out, which `warnings` then says.

    Args:
        chosen: the neurons that are steered.
        layer: the layer.
        names: placebos, of `PLACEBOS`.
        draws: draws of each.
        seed: of the draws.
        warnings: is added to.

    Raises:
        InputError: an unknown placebo, or no draw.
    """
    unknown = [name for name in names if name not in PLACEBOS]
    if unknown or (names and draws < 1):
        raise InputError(
            f"placebos={list(names)}, draws={draws}; expected some of {', '.join(PLACEBOS)}, 1 draw or more"
        )
    mask = chosen.fixed[layer]
    kinds = [name for name in names if name != "random_direction"]
    if kinds and 2 * int(mask.sum()) > len(mask):
        warnings.append(f"layer {layer}: {int(mask.sum())} of {len(mask)} neurons steered, too few left for {kinds}")
        kinds = []
    drawn = {kind: drawn_neurons(kind, chosen, layer, draws, seed) for kind in kinds}
    return Placebos(drawn, draws if "random_direction" in names else 0, seed)
