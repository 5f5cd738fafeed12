"""Steer by two texts: what leads from one to the other is added at a layer while the model writes, beside a placebo."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import streamlit as st

from apps.dashboard.widgets import address, live, running
from apps.drawn import steered
from probe.errors import ProbeError

if TYPE_CHECKING:
    from probe import Model

STRENGTHS = (0.5, 1.0, 2.0, 4.0, 8.0)
MOST_LAYERS, MAX_TOKENS, MAX_TEXT = 5, 200, 4000
PLACEBO = "random"  # a vector of the same norm, fitted to nothing
UNLIKE = ("I am sure of the answer .", "I do not know the answer .")


@dataclass(frozen=True)
class Asked:
    """Everything that decides a direction and what it does."""

    checkpoint: str
    prompt: str
    more: tuple[str, ...]
    less: tuple[str, ...]
    seed: int

    @property
    def pairs(self) -> list[tuple[str, str]]:
        return list(zip(self.more, self.less, strict=True))

    def script(self, layer: int, strength: float, tokens: int) -> str:
        """Python that writes the same completions."""
        return (
            "from probe import Model\n\n"
            f"model = Model.load({self.checkpoint!r})\n"
            f"direction = model.direction({self.pairs!r}, layer={layer})\n"
            f"steered = model.steer({self.prompt!r}, direction, [{strength!r}], max_new_tokens={tokens}, "
            f"seed={self.seed})\nprint(steered)\n"
        )


def show(
    places: Mapping[str, str], n_layers: Callable[[str], int], load: Callable[[str], Model], examples: Sequence[str]
) -> None:
    """Two texts and a prompt; a grid of layers and strengths beside the placebo's; one dose written out.

    Args:
        places: name -> path of the checkpoints there are.
        n_layers: blocks of the checkpoint at a path.
        load: the model at a path.
        examples: a prompt, then a text the model should write more like, and one it should write less like.
    """
    asked = _asked(places, examples)
    if st.button("Steer", type="primary", disabled=asked is None):
        st.session_state["steered"] = asked
    shown: Asked | None = st.session_state.get("steered")
    if shown is None:
        return
    if asked != shown:
        st.warning("Settings were changed: press Steer. What is below was made with the earlier ones.")
    try:
        _shown(shown, layers(n_layers(shown.checkpoint)), load)
    except ProbeError as error:
        st.error(address.escaped(error))


def layers(count: int) -> list[int]:
    """At most `MOST_LAYERS` of the last two thirds of the blocks, where directions are read best, evenly apart."""
    first = count // 3
    number = min(MOST_LAYERS, count - first)
    return sorted({first + round(i * (count - 1 - first) / max(number - 1, 1)) for i in range(number)})


def _asked(places: Mapping[str, str], examples: Sequence[str]) -> Asked | None:
    prompt, more, less = (*examples, *UNLIKE)[:3] if len(examples) < 3 else examples[:3]
    name = address.select("Checkpoint", list(places), key="checkpoint", default=list(places)[-1])
    wanted = address.text("Prompt", key="prompt", default=prompt, limit=MAX_TEXT, area=True)
    left, right = st.columns(2)
    with left:
        plus = address.text("More like (a text a line)", key="more", default=more, limit=MAX_TEXT, area=True)
    with right:
        minus = address.text("Less like (as many)", key="less", default=less, limit=MAX_TEXT, area=True)
    seed = address.slide("Seed of the placebo", range(20), key="seed", default=0)
    sides = [tuple(line for line in side.splitlines() if line.strip()) for side in (plus, minus)]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        counts = f"{len(sides[0])} texts on one side, {len(sides[1])} on the other"
        st.caption(f"{counts}: give as many on both, one at least.")
        return None
    return Asked(places[name], wanted, sides[0], sides[1], seed) if wanted.strip() else None


@st.cache_resource(max_entries=10, show_spinner="Steering at every layer ...", hash_funcs={Asked: repr})
def doses(
    asked: Asked, at: tuple[int, ...], _load: Callable[[str], Model]
) -> dict[str, dict[tuple[int, float], float]]:
    """Arm -> (layer, strength) -> KL from the unchanged next token, in nats."""
    model = _load(asked.checkpoint)
    found: dict[str, dict[tuple[int, float], float]] = {"direction": {}, "placebo": {}}
    for layer in at:
        direction = model.direction(asked.pairs, layer)
        told = model.steer(asked.prompt, direction, STRENGTHS, max_new_tokens=1, seed=asked.seed)
        for one in told.texts:
            arm = {direction.name: "direction", PLACEBO: "placebo"}.get(one.arm)
            if arm:
                found[arm][(layer, one.strength)] = one.kl_nats
    return found


def written(
    asked: Asked, layer: int, strength: float, tokens: int, load: Callable[[str], Model], tell: running.Tell
) -> list[tuple[str, str]]:
    """(arm, what it wrote): as it is, steered, placebo; the texts that ``Model.steer`` gives."""
    model = load(asked.checkpoint)
    direction = model.direction(asked.pairs, layer)
    placebo = direction.placebos(asked.seed)[PLACEBO]
    arms = {"as it is": [], "steered": direction.edits(strength), "placebo": placebo.edits(strength)}
    return list(running.write(model, asked.prompt, arms, tell, max_new_tokens=tokens).items())


def _shown(asked: Asked, at: list[int], load: Callable[[str], Model]) -> None:
    found = doses(asked, tuple(at), load)
    cells = {f"{layer}{steered.BREAK}{strength:g}": (layer, strength) for layer, strength in found["direction"]}
    first = f"{at[-1]}{steered.BREAK}1"
    picked = cells[address.held("dose", list(cells), first if first in cells else next(iter(cells)))]
    live.show(steered.grids(found, picked), key="doses", on_pick=lambda word: address.go(dose=word))
    tokens = address.slide("New tokens", range(1, MAX_TOKENS + 1), key="tokens", default=40)
    st.markdown(f"##### Layer {picked[0]}, strength {picked[1]:g}")
    told = running.streamed(
        (asked, picked, tokens), lambda tell: written(asked, *picked, tokens=tokens, load=load, tell=tell)
    )
    live.show(steered.completions(told), key="steered_texts")
    st.caption(
        "Marked: words that the unchanged model does not write there. If the placebo moves as much, any push does."
    )
    with st.expander("Code that writes the same"):
        st.code(asked.script(*picked, tokens), language="python", wrap_lines=True)
