"""Page Steer: scale a site of a checkpoint and read what it writes, beside an equally large random change.

The one page that runs a model. It is off where the dashboard can be reached from other machines, unless the
variable PROBE_STEER=1 says otherwise, and says what is missing where there is no torch or no checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import shorten
from typing import Any

import streamlit as st

import probe
from analyses.core.store.files import StoreError, replaced
from apps.catalog import Listing, located, not_found, run_names
from apps.dashboard.widgets import address, directions, running
from apps.drawn import texts
from probe.errors import InputError, ProbeError

SITES = {
    "mlp_post": "MLP neurons (keys)",
    "z": "attention heads, before they are mixed",
    "mlp_out": "what the MLP adds",
    "attn_out": "what attention adds",
    "resid_post": "residual stream",
}
TEXTS, UNITS = "texts", "units"
HOW = {TEXTS: "two texts", UNITS: "neurons or heads"}
MAX_TOKENS, MAX_PROMPT = 200, 2000
STRENGTHS = [n / 2 for n in range(-8, 17)]


@dataclass(frozen=True)
class Recipe:
    """Everything that decides the three completions."""

    checkpoint: str
    kind: str
    layer: int
    units: tuple[int, ...]
    alpha: float
    prompt: str
    max_new_tokens: int
    seed: int

    def __str__(self) -> str:
        units = f"units {', '.join(map(str, self.units))}" if self.units else "all units"
        return (
            f"{self.checkpoint}: {self.kind} of layer {self.layer}, {units}, times {self.alpha:g}; "
            f"at most {self.max_new_tokens} tokens after “{shorten(self.prompt, 60)}”; seed {self.seed}"
        )

    def placebo(self, size: int) -> tuple[int, ...]:
        """As many other units, drawn at random; () where all or no units are left to draw from."""
        others = sorted(set(range(size)) - set(self.units))
        count = len(self.units)
        return tuple(sorted(random.Random(self.seed).sample(others, count))) if 0 < count <= len(others) else ()

    def script(self, placebo: tuple[int, ...]) -> str:
        """A script that makes the same completions."""
        return f'''"""{self.kind} of block {self.layer} times {self.alpha:g}: completions as is, steered, placebo."""

from probe import Model, scale

model = Model.load({self.checkpoint!r})
prompt = {self.prompt!r}
arms = {{"as it is": None, "steered": {self.units!r}, "placebo": {placebo!r}}}
for name, units in arms.items():
    if name == "placebo" and not units:
        continue
    site = "{self.kind}.{self.layer}"
    edits = []
    if units is not None and site.startswith("z."):
        edits = [scale(f"{{site}}.{{head}}", {self.alpha!r}) for head in units or range(model.shape.n_heads)]
    elif units is not None:
        edits = [scale(site, {self.alpha!r}, neurons=units or None)]
    (done,) = model.generate([prompt], edits=edits, max_new_tokens={self.max_new_tokens}, seed={self.seed})
    print(f"{{name}}: {{done.text!r}}")
'''


def show(found: Listing) -> None:
    """Choose what to change; three completions; save the recipe."""
    st.subheader("Change the model while it writes", anchor=False)
    if reason := unavailable(found):
        st.info(reason)
        return
    how = address.select("Steer by", list(HOW), key="how", name=lambda h: HOW[h], radio=True, horizontal=True)
    if how == TEXTS:
        directions.show(_checkpoints(found), _n_layers, running.model, _examples(found))
        return
    asked, recipe = _asked(found)
    if recipe is None:
        return
    if asked != recipe:
        st.warning(f"Settings were changed: press Write. The texts below were made with {address.escaped(recipe)}")
    try:
        texts, placebo = running.streamed(recipe, partial(completions, recipe))
    except ProbeError as error:
        st.error(address.escaped(error))
        return
    _written(found, recipe, texts, placebo)


def _written(found: Listing, recipe: Recipe, texts: dict[str, str], placebo: tuple[int, ...]) -> None:
    """The completions side by side, and the script that makes them."""
    for column, (name, text) in zip(st.columns(len(texts)), texts.items(), strict=True):
        with column:
            st.markdown(f"**{name}**")
            st.code(text or "(nothing)", language=None, wrap_lines=True)
    if "placebo" not in texts:
        st.caption("No placebo: there are not as many other units to draw.")
    script = recipe.script(placebo)
    with st.expander("Code to reproduce this view", icon=":material/code:"):
        st.code(script, language="python")
    name = f"steer-{hashlib.sha256(script.encode()).hexdigest()[:8]}.py"
    st.button("Save as experiment", on_click=_save, args=(found.store.root / "experiments" / name, script))


def unavailable(found: Listing) -> str:
    """Why the page cannot be used here, and what to do; "" where it can."""
    if why := running.reason(thoroughly=True):
        if why.startswith("off"):
            return f"Steer is {why}"
        return "Steer runs a model and needs torch, which is not installed here. All other pages work without it."
    if not _checkpoints(found):
        lost = next((c["path"] for e in found.entries for c in e.checkpoints), None)
        why = f": {not_found(lost)}" if lost else ", and these results name none"
        return f"Steer needs a checkpoint{why}."
    return ""


def _checkpoints(found: Listing) -> dict[str, str]:
    """Name -> path of checkpoints that are still there."""
    paths = dict.fromkeys(c["path"] for e in found.entries for c in e.checkpoints)
    placed = [located(p, found.store.root) for p in paths]
    there = [str(p) for p in placed if p and (p / "config.json").is_file()]
    return run_names(sorted(there, key=lambda p: (str(Path(p).parent), _number(p))))


def _n_layers(path: str) -> int:
    """Number of blocks a checkpoint's configuration states (its names differ by family)."""
    config = json.loads((Path(path) / "config.json").read_text(encoding="utf-8"))
    config = config.get("text_config", config)
    return int(next((config[k] for k in ("num_hidden_layers", "n_layer", "n_layers") if k in config), 1))


def _example(found: Listing) -> str:
    """The first prompt of a prompt file some result was made from, "" where none is there any more."""
    sources = [e.record.get("inputs", {}).get("prompts", {}).get("source", "") for e in found.entries]
    for source in dict.fromkeys(s for s in sources if s.endswith(".jsonl")):
        path = located(source, found.store.root)
        if path and path.is_file():
            with path.open(encoding="utf-8") as lines:
                return str(json.loads(lines.readline() or "{}").get("prompt", ""))[:MAX_PROMPT]
    return ""


def _examples(found: Listing) -> list[str]:
    """A prompt of some result, that prompt with its own answer, and with another item's: they differ in little else."""
    for entry in found.entries:
        written = [w[0] for w in texts.of(entry).values()]
        other = next((w[1] for w in written if w[1] != written[0][1]), None)
        if other is not None:
            prompt, answer, _ = written[0]
            return [prompt[:MAX_PROMPT], *(f"{prompt} {a}"[:MAX_PROMPT] for a in (answer, other))]
    return [_example(found)]


def _number(path: str) -> int:
    tail = path.rpartition("-")[2]
    return int(tail) if tail.isdigit() else 0


def _asked(found: Listing) -> tuple[Recipe | None, Recipe | None]:
    """(the recipe set on the page, None where it is none; the one last written with, None before the first)."""
    places = _checkpoints(found)
    left, right = st.columns(2)
    with left:
        name = address.select("Checkpoint", list(places), key="checkpoint", default=list(places)[-1])
        kind = address.select("What to scale", list(SITES), key="site", default="z", name=_site_name)
        count = _n_layers(places[name])
        layer = address.slide("Layer", range(count), key="layer", default=2 * count // 3)
    with right:
        alpha = address.slide("Strength (1 changes nothing, 0 removes)", STRENGTHS, key="alpha", default=0.0)
        units = address.text("Neurons or heads, for example 3, 17 (empty: all)", key="units", default="0")
        tokens = address.slide("New tokens", range(1, MAX_TOKENS + 1), key="tokens", default=40)
    prompt = address.text("Prompt", key="prompt", default=_example(found), limit=MAX_PROMPT, area=True)
    seed = address.slide("Seed of the placebo", range(20), key="seed", default=0)
    pressed = st.button("Write", type="primary", disabled=not prompt)
    last: Recipe | None = st.session_state.get("recipe")
    try:
        chosen = tuple(int(u) for u in units.replace(",", " ").split())
    except ValueError:
        st.error("Neurons or heads are whole numbers, for example: 3, 17")
        return None, last
    recipe = Recipe(str(Path(places[name]).resolve()), kind, layer, chosen, alpha, prompt, tokens, seed)
    if pressed:
        st.session_state["recipe"] = last = recipe
    return recipe, last


def _site_name(kind: str) -> str:
    return f"{kind}: {SITES[kind]}"


def completions(recipe: Recipe, tell: running.Tell | None = None) -> tuple[dict[str, str], tuple[int, ...]]:
    """Text by arm, and the placebo's units; ``tell`` is told the texts while they are written.

    Raises:
        InputError: a layer or unit the model does not have, a prompt that does not fit.
    """

    model = running.model(recipe.checkpoint)
    if recipe.layer >= model.shape.n_layers:
        raise InputError(f"layer {recipe.layer}: the model has layers 0 to {model.shape.n_layers - 1}")
    size = _size(model, recipe.kind)
    if recipe.units and not all(0 <= u < size for u in recipe.units):
        raise InputError(f"units {recipe.units}: {recipe.kind} has 0 to {size - 1}")
    placebo = recipe.placebo(size)
    arms: dict[str, list[Any]] = {"as it is": [], "steered": _edits(model, recipe, recipe.units)}
    if placebo:
        arms["placebo"] = _edits(model, recipe, placebo)
    how: dict[str, Any] = {"max_new_tokens": recipe.max_new_tokens, "seed": recipe.seed}
    return running.write(model, recipe.prompt, arms, tell, **how), placebo


def _size(model: Any, kind: str) -> int:
    return {"mlp_post": model.shape.d_mlp, "z": model.shape.n_heads}.get(kind, model.shape.d_model)


def _edits(model: Any, recipe: Recipe, units: tuple[int, ...]) -> list[object]:

    site = f"{recipe.kind}.{recipe.layer}"
    if recipe.kind == "z":
        return [probe.scale(f"{site}.{head}", recipe.alpha) for head in units or range(model.shape.n_heads)]
    return [probe.scale(site, recipe.alpha, neurons=units or None)]


def _save(path: Path, script: str) -> None:
    try:
        replaced(path, script)
    except StoreError as error:
        st.error(address.escaped(error))
        return
    st.toast(f"Saved in {address.escaped(path)}")
