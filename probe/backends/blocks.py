"""One block of a model: its parts, and which of their outputs make up what it adds to the residual stream."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any

import torch

from probe import families
from probe.backends.observed import Call, Observed, kept_in
from probe.backends.place import WRITERS, Map, Place
from probe.sites import INSIDE_ATTENTION, Site

if TYPE_CHECKING:
    from torch import Tensor


@dataclass
class Block:
    """One block: what was seen of it, and its sites as they are found."""

    hf_model: Any
    seen: Observed
    layer: int
    found: dict[str, Place] = field(default_factory=dict[str, Place])
    why: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.prefix = f"{self.seen.blocks}.{self.layer}"
        self.config = families.of_block(families.text_config(self.hf_model.config), self.layer)
        self.n_heads, self.n_kv = families.n_heads(self.config), families.n_kv_heads(self.config)
        self.attention = self._attention()
        self.mixer = self._mixer()
        self.mlp = self._child(families.MLP)

    def put(self, found: Map) -> None:
        """Add this block's sites, and why others are lacking, to the map."""
        for kind, place in self.found.items():
            found.places[Site(kind, self.layer)] = place
        for kind, reason in self.why.items():
            if kind not in self.found:
                found.absent[Site(kind, self.layer)] = f"block {self.layer}: {reason}"
        if self.attention is not None:
            found.attention[self.layer] = self.attention.path
            door = self.seen.doors.get(self.layer)
            if door is not None and door.n_heads:
                found.doors[self.layer] = door
        elif self.mixer is not None:
            for kind in (*INSIDE_ATTENTION, "attn_out"):
                found.absent[Site(kind, self.layer)] = f"block {self.layer}: {self.no_attention()}"

    def no_attention(self) -> str:
        name = self.mixer.path.rpartition(".")[2] if self.mixer else "none"
        return f"it has no softmax attention; what mixes positions is {name}, read as mixer_out"

    def _child(self, names: Sequence[str]) -> Call | None:
        return self.seen.once(*(f"{self.prefix}.{name}" for name in names))

    def _attends(self, path: str) -> bool:
        door = self.seen.doors.get(self.layer)
        if door is not None:
            return door.path == path or door.path.startswith(f"{path}.")
        if any(p == path or p.startswith(f"{path}.") for p in self.seen.fused):
            return True
        # Another kernel than the two that can be seen: taken by its name.
        return self.config._attn_implementation not in ("eager", "sdpa") and path.endswith("attn")

    def _attention(self) -> Call | None:
        calls = [self.seen.once(f"{self.prefix}.{name}") for name in families.ATTENTION]
        return next((c for c in calls if c is not None and self._attends(c.path)), None)

    def _mixer(self) -> Call | None:
        calls = [self.seen.once(f"{self.prefix}.{name}") for name in (*families.MIXER, *families.ATTENTION)]
        return next((c for c in calls if c is not None and not self._attends(c.path)), None)

    def stream(self) -> None:
        block = self.seen.once(self.prefix)
        shape = (self.seen.n_items, self.seen.n_pos)
        if block is None or block.first is None or block.out is None or block.out.shape != block.first.shape:
            reason = "it does not take and give one residual stream"
        elif block.first.ndim != 3 or block.first.shape[:2] != shape:
            reason = f"its stream is {list(block.first.shape)}, not one vector per token"
        else:
            self.found["resid_pre"] = Place(self.prefix, "in")
            self.found["resid_post"] = Place(self.prefix, "out")
            self._writers(block)
            return
        self.why |= dict.fromkeys(("resid_pre", "resid_post", "resid_mid", *WRITERS), reason)

    def _writers(self, block: Call) -> None:
        """Which outputs, each by a factor of the family's, add up to what the block adds."""
        options: dict[str, list[Place]] = {}
        for kind, call, names in (
            ("attn_out", self.attention, families.OUT),
            ("mixer_out", self.mixer, families.OUT),
            ("mlp_out", self.mlp, families.DOWN),
        ):
            if call is not None:
                options[kind] = [
                    replace(place, factor=factor)
                    for place in self._outputs(call, names)
                    for factor in families.multipliers(self.config, kind)
                ]
        if self.mlp is None and (down := self._child(families.DOWN)) is not None:
            options["mlp_out"] = [Place(down.path, "out", flat=self.is_flat(down.out))]
        for chosen in product(*options.values()):
            if self._adds_up(block, chosen):
                self.found |= dict(zip(options, chosen, strict=True))
                break
        else:
            reason = "what it adds to the residual stream is not one module's output (summed or scaled within it)"
            self.why |= dict.fromkeys(WRITERS, reason)
            self.why["resid_mid"] = "what it adds before the MLP is not known"
            self._first_half(block, {k: v for k, v in options.items() if k != "mlp_out"})
            return
        self.why |= {k: "this block has no such part" for k in WRITERS if k not in options}
        self._middle(block)

    def _outputs(self, call: Call, inner: Sequence[str]) -> Iterator[Place]:
        """Where what a part writes may be read, most likely first: behind a norm, at the part, at its last matrix."""
        for child in self.seen.under(self.prefix):
            follows = child is not call and kept_in(child.first) == kept_in(call.out)
            if follows and child.times == 1 and kept_in(child.out) != kept_in(child.first):
                yield Place(child.path, "out", flat=self.is_flat(child.out))
        yield Place(call.path, "out", flat=self.is_flat(call.out))
        for name in inner:
            deep = self.seen.once(f"{call.path}.{name}")
            if deep is not None:
                yield Place(deep.path, "out", flat=self.is_flat(deep.out))

    def is_flat(self, x: Tensor | None) -> bool:
        return x is not None and x.ndim == 2 and x.shape[0] == self.seen.n_items * self.seen.n_pos

    def is_by_token(self, x: Tensor) -> bool:
        """Whether a tensor has one row for every token, in their order."""
        return self.is_flat(x) or (x.ndim == 3 and x.shape[:2] == (self.seen.n_items, self.seen.n_pos))

    def _value(self, place: Place) -> Tensor:
        x = self.seen.calls[place.path].values[place.side]
        return place.view(x, self.seen.n_items)

    def _adds_up(self, block: Call, chosen: Sequence[Place]) -> bool:
        if not self.seen.is_real:  # no values without weights: the likeliest is taken
            return True
        pre, post = block.values["in"], block.values["out"]
        parts = [self._value(place) for place in chosen]
        if any(part.shape != pre.shape for part in parts):
            return False
        # Over several devices, what a block takes comes from another than what it gives.
        return equal(sum((part.to(post.device) for part in parts), pre.float().to(post.device)), post)

    def _first_half(self, block: Call, options: dict[str, list[Place]]) -> None:
        """What mixes positions, where the MLP is summed from several modules: told by the stream read behind it."""
        for chosen in product(*options.values()) if options and self.seen.is_real else ():
            middle = self._reader(block, chosen, ended=block.left)
            if middle is not None:
                self.found |= {**dict(zip(options, chosen, strict=True)), "resid_mid": middle}
                self.why |= {k: "this block has no such part" for k in WRITERS if k not in (*options, "mlp_out")}
                return

    def _middle(self, block: Call) -> None:
        """The stream between the parts, where one reads it after attention wrote to it and before the MLP does."""
        before = [self.found[k] for k in ("attn_out", "mixer_out") if k in self.found]
        if not before or "mlp_out" not in self.found:
            self.why["resid_mid"] = "it has not two parts, one after the other"
            return
        middle = self._reader(block, before, ended=self.seen.calls[self.found["mlp_out"].path].left)
        if middle is None:
            self.why["resid_mid"] = "attention and MLP read the same stream (parallel)"
        else:
            self.found["resid_mid"] = middle

    def _reader(self, block: Call, before: Sequence[Place], ended: int) -> Place | None:
        """The first module that reads what the block was given and what the parts `before` added to it."""
        written = max(self.seen.calls[p.path].left for p in before)
        known = {kept_in(block.first), *(kept_in(self.seen.calls[p.path].out) for p in before)}
        parts = [self._value(p) for p in before]
        if any(part.shape != block.values["in"].shape for part in parts):
            return None
        want = sum(parts, block.values["in"].float().to(parts[0].device))
        for child in self.seen.under(self.prefix):
            if not written < child.entered < ended or child.first is None or kept_in(child.first) in known:
                continue
            flat = self.is_flat(child.values["in"])
            x = child.values["in"].unflatten(0, (self.seen.n_items, -1)) if flat else child.values["in"]
            if not self.seen.is_real or (x.shape == want.shape and equal(want, x)):
                return Place(child.path, "in", "in_place", flat=flat)
        return None


def equal(one: Tensor, two: Tensor, scale: float = 0.0) -> bool:
    """Equal to rounding of the type, relative to the largest value."""
    bound = 1e-4 if two.dtype in (torch.float32, torch.float64) else 0.03
    size = max(scale, float(two.abs().max()), 1e-6)
    return bool((one.float() - two.float()).abs().max() <= bound * size)
