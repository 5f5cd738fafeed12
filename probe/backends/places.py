"""Places: where each site sits in a plain Hugging Face module tree.

Which module is which is read off names (`probe.families`); what a block does with them is observed in one short
pass: which outputs add up to what the block adds to the residual stream, whether a norm follows a part, which module
reads the stream between attention and MLP, how heads lie. What a block lacks is left out, with the reason why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import torch

from probe import families
from probe.backends.observed import Call, Observed, kept_in, observe
from probe.backends.softmax import Door
from probe.errors import InputError
from probe.sites import READ_ONLY, Site

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

Layout = Literal["plain", "split", "heads_first", "picked", "in_place"]

INSIDE_ATTENTION = ("attn_scores", "pattern")
"""Kinds that no module takes or gives: they exist inside the attention function."""

WRITERS = ("attn_out", "mixer_out", "mlp_out")
"""Kinds that a block adds to the residual stream; with resid_pre they sum to resid_post."""


@dataclass(frozen=True)
class Place:
    """One side of a module, and how the site's tensor lies in what passes there.

    `split`: heads are joined in the last dimension. `heads_first`: [item, head, pos, d_head]. `picked`:
    `columns` of a fused projection (heads joined, if there are any). `in_place`: the model goes on with the same
    tensor on two paths (the skip path too), so an edit must be written into it. `index`: which of the module's
    arguments or results it is. `factor`: what the model multiplies it by before it is the site's value. `flat`:
    items and positions are joined. `is_rewritten`: the model writes into the tensor later in the same pass, so what
    is read is a copy.
    """

    path: str
    side: Literal["in", "out"]
    layout: Layout = "plain"
    n_heads: int = 0
    columns: Int[Tensor, " column"] | None = None
    index: int = 0
    factor: float = 1.0
    flat: bool = False
    is_rewritten: bool = False

    def view(self, x: Tensor, n_items: int = 1) -> Tensor:
        """The site's tensor, in the dimensions of `probe.sites.KINDS`."""
        x = x.clone() if self.is_rewritten else x
        if self.flat:
            x = x.unflatten(0, (n_items, -1))
        if self.factor != 1.0:
            return x * self.factor
        if self.layout == "heads_first":
            return x.transpose(1, 2)
        if self.layout == "picked":
            assert self.columns is not None
            x = x[..., self.columns]
            return x.unflatten(-1, (self.n_heads, -1)) if self.n_heads else x
        return x.unflatten(-1, (self.n_heads, -1)) if self.layout == "split" else x

    def write(self, new: Tensor, x: Tensor) -> Tensor:
        """What passes on in place of `x` when the site's tensor is `new`."""
        new = new.clone() if self.is_rewritten else new
        if self.factor != 1.0:
            return (new / self.factor).reshape(x.shape)
        if self.layout == "heads_first":
            return new.transpose(1, 2)
        if self.layout == "picked":
            assert self.columns is not None
            rows = (new.flatten(-2) if self.n_heads else new).reshape(*x.shape[:-1], -1)
            return x.index_copy(-1, self.columns.to(x.device), rows)
        if self.layout == "in_place":
            return x.copy_(new.reshape(x.shape))
        return new.flatten(-2).reshape(x.shape) if self.layout == "split" else new.reshape(x.shape)


@dataclass(frozen=True)
class Map:
    """Where the sites of a model are.

    Attributes:
        places: site -> place; `attn_scores` and `pattern` are not sides of modules (see `doors`).
        doors: block -> the softmax inside its attention, under the eager kernel.
        order: (kind, block) -> when it is passed, for every place.
        absent: (kind, block) -> why this block does not have it.
        attention: block -> path of its attention module.
        blocks: path of the list of blocks.
        trunk: path of the decoder that holds them and reads token ids.
        norm: path of the final norm (a site, ln_final, only where it is called for nothing else).
    """

    places: dict[Site, Place]
    doors: dict[int, Door]
    order: dict[Site, int]
    absent: dict[Site, str]
    attention: dict[int, str]
    blocks: str
    trunk: str
    norm: str

    def own_outputs(self) -> frozenset[Site]:
        """Sites that equal the output of the module of their name (no norm or factor in between)."""
        names = {*families.ATTENTION, *families.MLP}
        return frozenset(
            s
            for s, p in self.places.items()
            if s.kind == "resid_post" or (s.kind in WRITERS and p.factor == 1.0 and p.path.split(".")[-1] in names)
        )


def places(hf_model: Any) -> Map:
    """The map of a model.

    Raises:
        InputError: a model without a list of blocks, a final norm or an embedding of its own.
    """
    seen = observe(hf_model)
    norm = _final_norm(seen)
    ends = {Site("embed"): _embedding(hf_model, seen)}
    if norm.times == 1:
        ends[Site("ln_final")] = Place(norm.path, "out")
    found = Map(ends, {}, {}, {}, {}, seen.blocks, seen.trunk, norm.path)
    number = families.n_layers(families.text_config(hf_model.config)) or 0
    for layer in range(number):
        _Block(hf_model, seen, layer).put(found)
    for site, place in found.places.items():
        call = seen.calls[place.path]
        found.order[site] = call.entered if place.side == "in" else call.left
        if call.is_rewritten(place.side):
            found.places[site] = replace(place, is_rewritten=True)
    return found


def _embedding(hf_model: Any, seen: Observed) -> Place:
    """The embedding, times what the family multiplies it by on its way into the stream."""
    module = hf_model.get_input_embeddings()
    path = next(path for path, m in hf_model.named_modules() if m is module)
    factor = families.embedding_multiplier(families.text_config(hf_model.config))
    first, made = seen.calls.get(f"{seen.blocks}.0"), seen.calls.get(path)
    if first is None or made is None or not seen.is_real or first.values["in"].shape != made.values["out"].shape:
        return Place(path, "out", factor=factor)
    scaled = _equal(made.values["out"] * factor, first.values["in"])
    return Place(path, "out", factor=factor if scaled else 1.0)


def _final_norm(seen: Observed) -> Call:
    outside = [c for p, c in seen.calls.items() if not p.startswith(seen.blocks) and c.first is not None]
    made = [c for c in outside if kept_in(c.last) == kept_in(seen.last) and kept_in(c.first) != kept_in(c.last)]
    made = [c for c in made if c.first is not None and c.first.ndim == 3]
    if not made:
        raise InputError("the final hidden state of this model is not what a norm gives: it has no lens to read with")
    return max(made, key=lambda c: c.entered)


@dataclass
class _Block:
    """One block: what was seen of it, and its sites as they are found."""

    hf_model: Any
    seen: Observed
    layer: int
    found: dict[str, Place] = field(default_factory=dict[str, Place])
    why: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.prefix = f"{self.seen.blocks}.{self.layer}"
        self.config = families.text_config(self.hf_model.config)
        self.n_heads, self.n_kv = families.n_heads(self.config), families.n_kv_heads(self.config)
        self.attention = self._attention()
        self.mixer = self._mixer()
        self.mlp = self._child(families.MLP)

    def put(self, found: Map) -> None:
        """Add this block's sites, and why others are lacking, to the map."""
        self._stream()
        self._heads()
        self._neurons()
        self._experts()
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
                found.absent[Site(kind, self.layer)] = f"block {self.layer}: {self._no_attention()}"

    def _no_attention(self) -> str:
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
        names = [n for n in (*families.MIXER, *families.ATTENTION)]
        calls = [self.seen.once(f"{self.prefix}.{name}") for name in names]
        return next((c for c in calls if c is not None and not self._attends(c.path)), None)

    # -- the residual stream

    def _stream(self) -> None:
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
            options["mlp_out"] = [Place(down.path, "out", flat=self._is_flat(down.out))]
        for chosen in product(*options.values()):
            if self._adds_up(block, chosen):
                self.found |= dict(zip(options, chosen, strict=True))
                break
        else:
            reason = "what it adds to the residual stream is not one module's output (summed or scaled within it)"
            self.why |= dict.fromkeys(WRITERS, reason)
            self.why["resid_mid"] = "what it adds before the MLP is not known"
            return
        self.why |= {k: "this block has no such part" for k in WRITERS if k not in options}
        self._middle(block)

    def _outputs(self, call: Call, inner: Sequence[str]) -> Iterator[Place]:
        """Where what a part writes may be read, most likely first: behind a norm, at the part, at its last matrix."""
        for child in self.seen.under(self.prefix):
            follows = child is not call and kept_in(child.first) == kept_in(call.out)
            if follows and child.times == 1 and kept_in(child.out) != kept_in(child.first):
                yield Place(child.path, "out", flat=self._is_flat(child.out))
        yield Place(call.path, "out", flat=self._is_flat(call.out))
        for name in inner:
            deep = self.seen.once(f"{call.path}.{name}")
            if deep is not None:
                yield Place(deep.path, "out", flat=self._is_flat(deep.out))

    def _is_flat(self, x: Tensor | None) -> bool:
        return x is not None and x.ndim == 2 and x.shape[0] == self.seen.n_items * self.seen.n_pos

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
        return _equal(sum(parts, pre.float()), post)

    def _middle(self, block: Call) -> None:
        """The first module that reads the stream after attention wrote to it and before the MLP does."""
        before = [self.found[k] for k in ("attn_out", "mixer_out") if k in self.found]
        if not before or "mlp_out" not in self.found:
            self.why["resid_mid"] = "it has not two parts, one after the other"
            return
        written = max(self.seen.calls[p.path].left for p in before)
        ended = self.seen.calls[self.found["mlp_out"].path].left
        known = {kept_in(block.first), *(kept_in(self.seen.calls[p.path].out) for p in before)}
        want = sum((self._value(p) for p in before), block.values["in"].float())
        for child in self.seen.under(self.prefix):
            if not written < child.entered < ended or child.first is None or kept_in(child.first) in known:
                continue
            x = child.values["in"]
            flat = self._is_flat(x)
            if not self.seen.is_real or _equal(want, x.unflatten(0, (self.seen.n_items, -1)) if flat else x):
                self.found["resid_mid"] = Place(child.path, "in", "in_place", flat=flat)
                return
        self.why["resid_mid"] = "attention and MLP read the same stream (parallel)"

    # -- attention by head

    def _heads(self) -> None:
        if self.attention is None:
            self.why |= dict.fromkeys("qkvz", self._no_attention() if self.mixer else "this block has no attention")
            return
        path = self.attention.path
        inner = self.seen.once(*(f"{path}.{name}" for name in families.INNER_ATTENTION))
        path = inner.path if inner is not None else path
        if str(self.config.model_type) in families.PAIRED_HEADS:
            self.why |= dict.fromkeys("qkvz", "its heads work in pairs: no tensor here is one head's")
            return
        out = self.seen.once(*(f"{path}.{name}" for name in families.OUT))
        if out is None or out.first is None or out.first.shape[-1] % self.n_heads:
            self.why["z"] = "heads are mixed by no one matrix here"
        else:
            self.found["z"] = Place(out.path, "in", "split", self.n_heads, flat=self._is_flat(out.first))
        fused = self.seen.once(*(f"{path}.{name}" for name in families.FUSED))
        columns = None if fused is None or fused.out is None else self._columns(fused)
        for kind, names, heads in (
            ("q", families.Q, self.n_heads), ("k", families.K, self.n_kv), ("v", families.V, self.n_kv),
        ):  # fmt: skip
            normed = self._normed(path, kind, columns is not None)
            own = self.seen.once(*(f"{path}.{name}" for name in names))
            if normed is not None:
                self.found[kind] = replace(normed, n_heads=heads)
            elif columns is not None and fused is not None:
                self.found[kind] = Place(fused.path, "out", "picked", heads, torch.tensor(columns[kind]))
            elif own is not None and own.out is not None and own.out.ndim == 3 and own.out.shape[-1] % heads == 0:
                self.found[kind] = self._projected(own, kind, heads)
            else:
                self.why[kind] = "no module gives it by head (compressed, or taken over from another block)"

    def _columns(self, fused: Call) -> Mapping[str, list[int]] | None:
        assert fused.out is not None
        name = fused.path.rpartition(".")[2]
        return families.split_heads(self.config, name, int(fused.out.shape[-1]))

    def _projected(self, own: Call, kind: str, heads: int) -> Place:
        """A projection; where it gives a gate beside each head's query (Qwen3-Next), the query's columns."""
        assert own.out is not None
        width, size = int(own.out.shape[-1]), families.d_head(self.config)
        if kind == "q" and size and width == 2 * heads * size:
            columns = [h * 2 * size + i for h in range(heads) for i in range(size)]
            return Place(own.path, "out", "picked", heads, torch.tensor(columns))
        return Place(own.path, "out", "split", heads)

    def _normed(self, path: str, kind: str, is_fused: bool) -> Place | None:
        """The norm of queries or keys, where it works on what the projection gave (not on rotated ones)."""
        norm = self.seen.once(*(f"{path}.{name}" for name in families.NORMS.get(kind, ())))
        if norm is None or norm.out is None:
            return None
        sources = families.FUSED if is_fused else {"q": families.Q, "k": families.K}[kind]
        source = self.seen.once(*(f"{path}.{name}" for name in sources))
        if source is None or not self._is_source(source, norm):
            return None
        shape, heads = tuple(norm.out.shape), self.n_heads if kind == "q" else self.n_kv
        if len(shape) == 3:
            return Place(norm.path, "out", "split")
        if len(shape) == 4 and shape[1:3] == (heads, self.seen.n_pos):
            return Place(norm.path, "out", "heads_first")
        return Place(norm.path, "out") if len(shape) == 4 and shape[1:3] == (self.seen.n_pos, heads) else None

    def _is_source(self, source: Call, norm: Call) -> bool:
        """Whether the norm's input is the projection's output, by its memory or (copied on the way) by its values."""
        if kept_in(norm.first) == kept_in(source.out):
            return True
        if not self.seen.is_real or source.out is None or norm.first is None:
            return False
        one, two = norm.values["in"].flatten().sort()[0], source.values["out"].flatten().sort()[0]
        return one.shape == two.shape and bool(torch.equal(one, two))

    # -- the MLP

    def _neurons(self) -> None:
        kinds = ("mlp_pre", "mlp_up", "mlp_post")
        path = self.mlp.path if self.mlp is not None else self.prefix
        if self.mlp is not None and self._routed() is not None:
            reason = "each token goes to a few of several experts, so it has no one row of neurons; see router_logits, "
            self.why |= dict.fromkeys(kinds, f"{reason}experts, mlp_out")
            return
        gate, up, both, down = (
            self.seen.once(*(f"{path}.{name}" for name in names))
            for names in (families.GATE, families.UP, families.GATE_UP, families.DOWN)
        )
        self.why |= dict.fromkeys(kinds, "its MLP has no such matrix")
        if down is None:
            return
        self.found["mlp_post"] = Place(down.path, "in", flat=self._is_flat(down.first))
        if both is not None and both.out is not None:
            half = int(both.out.shape[-1]) // 2
            for kind, start in (("mlp_pre", 0), ("mlp_up", half)):
                columns = torch.arange(start, start + half)
                self.found[kind] = Place(both.path, "out", "picked", 0, columns, flat=self._is_flat(both.out))
            return
        if gate is not None and up is not None:
            self.found["mlp_up"] = Place(up.path, "out", flat=self._is_flat(up.out))
        first = gate or up
        if first is not None:
            self.found["mlp_pre"] = Place(first.path, "out", flat=self._is_flat(first.out))

    def _routed(self) -> Call | None:
        """The experts a block's MLP chooses among."""
        path = self.mlp.path if self.mlp is not None else self.prefix
        prefixes = [f"{path}.{name}" for name in families.EXPERTS]
        return self.seen.once(*prefixes) or next(
            (c for p, c in self.seen.calls.items() if any(p.startswith(f"{x}.") for x in prefixes)), None
        )

    def _experts(self) -> None:
        self.why |= dict.fromkeys(READ_ONLY, "its MLP is not routed")
        experts = self._routed()
        if experts is None or self.mlp is None:
            return
        self.why |= dict.fromkeys(READ_ONLY, "its router gives no such tensor")
        chosen = experts.took[1] if len(experts.took) > 1 else None
        if chosen is not None and not chosen.is_floating_point():
            self.found["experts"] = Place(experts.path, "in", index=1, flat=self._is_flat(chosen))
        router = self.seen.once(*(f"{self.mlp.path}.{name}" for name in families.ROUTER))
        if router is None:
            return
        index = self._logits_of(router)
        if index is not None:
            self.found["router_logits"] = Place(router.path, "out", index=index, flat=self._is_flat(router.gave[index]))

    def _logits_of(self, router: Call) -> int | None:
        """Which of a router's results is its linear map of the token (the others are weights and choices)."""
        weights = [p for n, p in self.hf_model.get_submodule(router.path).named_parameters() if p.ndim == 2]
        for index, out in enumerate(router.gave):
            for weight in weights:
                if out is None or out.shape[-1] != weight.shape[0] or not out.is_floating_point():
                    continue
                if not self.seen.is_real:
                    return index
                want = router.values["in"].reshape(-1, weight.shape[1]).float() @ weight.float().T
                shift = out.reshape(want.shape).float() - want  # a bias, if there is one, is equal for all tokens
                if _equal(shift - shift[:1], torch.zeros_like(shift), float(want.abs().max())):
                    return index
        return None


def _equal(one: Tensor, two: Tensor, scale: float = 0.0) -> bool:
    """Equal to rounding of the type, relative to the largest value."""
    bound = 1e-4 if two.dtype in (torch.float32, torch.float64) else 0.03
    size = max(scale, float(two.abs().max()), 1e-6)
    return bool((one.float() - two.float()).abs().max() <= bound * size)
