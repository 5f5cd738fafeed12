"""Inside the parts of a block: heads of attention, neurons of the MLP, experts and their router."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from probe import families
from probe.backends.blocks import equal
from probe.backends.observed import kept_in
from probe.backends.place import Place
from probe.sites import READ_ONLY

if TYPE_CHECKING:
    from probe.backends.blocks import Block
    from probe.backends.observed import Call


def heads(block: Block) -> None:
    if block.attention is None:
        block.why |= dict.fromkeys("qkvz", block.no_attention() if block.mixer else "this block has no attention")
        return
    path = block.attention.path
    inner = block.seen.once(*(f"{path}.{name}" for name in families.INNER_ATTENTION))
    path = inner.path if inner is not None else path
    if str(block.config.model_type) in families.PAIRED_HEADS:
        block.why |= dict.fromkeys("qkvz", "its heads work in pairs: no tensor here is one head's")
        return
    out = block.seen.once(*(f"{path}.{name}" for name in families.OUT))
    if out is None or out.first is None or out.first.shape[-1] % block.n_heads:
        block.why["z"] = "heads are mixed by no one matrix here"
    else:
        block.found["z"] = Place(out.path, "in", "split", block.n_heads, flat=block.is_flat(out.first))
    fused = block.seen.once(*(f"{path}.{name}" for name in families.FUSED))
    columns = None if fused is None or fused.out is None else _columns(block, fused)
    for kind, names, heads in (
        ("q", families.Q, block.n_heads), ("k", families.K, block.n_kv), ("v", families.V, block.n_kv),
    ):  # fmt: skip
        normed = _normed(block, path, kind, columns is not None)
        own = block.seen.once(*(f"{path}.{name}" for name in names))
        if normed is not None:
            block.found[kind] = replace(normed, n_heads=heads)
        elif columns is not None and fused is not None:
            block.found[kind] = Place(fused.path, "out", "picked", heads, torch.tensor(columns[kind]))
        elif own is not None and own.out is not None and own.out.ndim == 3 and own.out.shape[-1] % heads == 0:
            block.found[kind] = _projected(block, own, kind, heads)
        else:
            block.why[kind] = "no module gives it by head (compressed, or taken over from another block)"


def _columns(block: Block, fused: Call) -> Mapping[str, list[int]] | None:
    assert fused.out is not None
    name = fused.path.rpartition(".")[2]
    return families.split_heads(block.config, name, int(fused.out.shape[-1]))


def _projected(block: Block, own: Call, kind: str, heads: int) -> Place:
    """A projection; where it gives a gate beside each head's query (Qwen3-Next), the query's columns."""
    assert own.out is not None
    width, size = int(own.out.shape[-1]), families.d_head(block.config)
    if kind == "q" and size and width == 2 * heads * size:
        columns = [h * 2 * size + i for h in range(heads) for i in range(size)]
        return Place(own.path, "out", "picked", heads, torch.tensor(columns))
    return Place(own.path, "out", "split", heads)


def _normed(block: Block, path: str, kind: str, is_fused: bool) -> Place | None:
    """The norm of queries or keys, where it works on what the projection gave (not on rotated ones)."""
    norm = block.seen.once(*(f"{path}.{name}" for name in families.NORMS.get(kind, ())))
    if norm is None or norm.out is None:
        return None
    sources = families.FUSED if is_fused else {"q": families.Q, "k": families.K}[kind]
    source = block.seen.once(*(f"{path}.{name}" for name in sources))
    if source is None or not _is_source(block, source, norm):
        return None
    shape, heads = tuple(norm.out.shape), block.n_heads if kind == "q" else block.n_kv
    if len(shape) == 3:
        return Place(norm.path, "out", "split")
    if len(shape) == 4 and shape[1:3] == (heads, block.seen.n_pos):
        return Place(norm.path, "out", "heads_first")
    return Place(norm.path, "out") if len(shape) == 4 and shape[1:3] == (block.seen.n_pos, heads) else None


def _is_source(block: Block, source: Call, norm: Call) -> bool:
    """Whether the norm's input is the projection's output, by its memory or (copied on the way) by its values."""
    if kept_in(norm.first) == kept_in(source.out):
        return True
    if not block.seen.is_real or source.out is None or norm.first is None:
        return False
    one, two = norm.values["in"].flatten().sort()[0], source.values["out"].flatten().sort()[0]
    return one.shape == two.shape and bool(torch.equal(one, two))


def neurons(block: Block) -> None:
    kinds = ("mlp_pre", "mlp_up", "mlp_post")
    path = block.mlp.path if block.mlp is not None else block.prefix
    if block.mlp is not None and _routed(block) is not None:
        reason = "each token goes to a few of several experts, so it has no one row of neurons; see router_logits, "
        block.why |= dict.fromkeys(kinds, f"{reason}experts, mlp_out")
        return
    gate, up, both, down = (
        block.seen.once(*(f"{path}.{name}" for name in names))
        for names in (families.GATE, families.UP, families.GATE_UP, families.DOWN)
    )
    block.why |= dict.fromkeys(kinds, "its MLP has no such matrix")
    if down is None or down.first is None or not block.is_by_token(down.first):  # rows of experts, say
        return
    block.found["mlp_post"] = Place(down.path, "in", flat=block.is_flat(down.first))
    if both is not None and both.out is not None:
        half = int(both.out.shape[-1]) // 2
        for kind, start in (("mlp_pre", 0), ("mlp_up", half)):
            columns = torch.arange(start, start + half)
            block.found[kind] = Place(both.path, "out", "picked", 0, columns, flat=block.is_flat(both.out))
        return
    if gate is not None and up is not None:
        block.found["mlp_up"] = Place(up.path, "out", flat=block.is_flat(up.out))
    first = gate or up
    if first is not None:
        block.found["mlp_pre"] = Place(first.path, "out", flat=block.is_flat(first.out))


def _routed(block: Block) -> Call | None:
    """The experts a block's MLP chooses among."""
    path = block.mlp.path if block.mlp is not None else block.prefix
    prefixes = [f"{path}.{name}" for name in families.EXPERTS]
    return block.seen.once(*prefixes) or next(
        (c for p, c in block.seen.calls.items() if any(p.startswith(f"{x}.") for x in prefixes)), None
    )


def experts(block: Block) -> None:
    block.why |= dict.fromkeys(READ_ONLY, "its MLP is not routed")
    experts = _routed(block)
    if experts is None or block.mlp is None:
        return
    block.why |= dict.fromkeys(READ_ONLY, "its router gives no such tensor")
    chosen = experts.took[1] if len(experts.took) > 1 else None
    if chosen is not None and not chosen.is_floating_point() and block.is_by_token(chosen):
        block.found["experts"] = Place(experts.path, "in", index=1, flat=block.is_flat(chosen))
    router = block.seen.once(*(f"{block.mlp.path}.{name}" for name in families.ROUTER))
    if router is None:
        return
    index = _logits_of(block, router)
    if index is not None:
        block.found["router_logits"] = Place(router.path, "out", index=index, flat=block.is_flat(router.gave[index]))


def _logits_of(block: Block, router: Call) -> int | None:
    """Which of a router's results is its linear map of the token (the others are weights and choices)."""
    weights = [p for p in block.hf_model.get_submodule(router.path).parameters() if p.ndim == 2]
    for index, out in enumerate(router.gave):
        for weight in weights:
            if out is None or out.shape[-1] != weight.shape[0] or not out.is_floating_point():
                continue
            if not block.is_by_token(out):
                continue
            if not block.seen.is_real:
                return index
            want = router.values["in"].reshape(-1, weight.shape[1]).float() @ weight.float().T
            shift = out.reshape(want.shape).float() - want  # a bias, if there is one, is equal for all tokens
            if equal(shift - shift[:1], torch.zeros_like(shift), float(want.abs().max())):
                return index
    return None


FINDERS: tuple[Callable[[Block], None], ...] = (heads, neurons, experts)
"""Who looks for the sites inside a block; each puts what it found into `block.found`, else the reason into `why`."""
