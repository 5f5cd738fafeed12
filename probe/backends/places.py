"""Places: where each site sits in a plain Hugging Face module tree, read off TransformerLens's adapters.

An adapter knows its family: which module is the second norm, whether a norm follows the MLP, how q, k
and v are fused. Both backends take their map from here; there is no table of module names of our own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from probe.errors import InputError, ProbeError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Int
    from torch import Tensor

Layout = Literal["plain", "split", "heads_first", "picked", "in_place"]

INSIDE_ATTENTION = ("attn_scores", "pattern")
"""Kinds that no module takes or gives: they exist inside the attention function."""

RESIDUAL = ("resid_pre", "resid_post", "attn_out", "mlp_out")
"""Kinds every family must show: the proofs add them up."""


@dataclass(frozen=True)
class Place:
    """One side of a module, and how the site's tensor lies in what passes there.

    `split`: heads are joined in the last dimension. `heads_first`: [item, head, pos, d_head]. `picked`:
    `columns` of a fused projection, heads joined. `in_place`: the model goes on with the same tensor
    on two paths (the skip path too), so an edit must be written into it.
    """

    path: str
    side: Literal["in", "out"]
    layout: Layout = "plain"
    n_heads: int = 0
    columns: Int[Tensor, " column"] | None = None

    def view(self, x: Tensor) -> Tensor:
        """The site's tensor, in the dimensions of `probe.sites.KINDS`."""
        if self.layout == "heads_first":
            return x.transpose(1, 2)
        if self.layout == "picked":
            return x[..., self.columns].unflatten(-1, (self.n_heads, -1))
        return x.unflatten(-1, (self.n_heads, -1)) if self.layout == "split" else x

    def write(self, new: Tensor, x: Tensor) -> Tensor:
        """What passes on in place of `x` when the site's tensor is `new`."""
        if self.layout == "heads_first":
            return new.transpose(1, 2)
        if self.layout == "picked":
            assert self.columns is not None
            return x.index_copy(-1, self.columns.to(x.device), new.flatten(-2))
        if self.layout == "in_place":
            return x.copy_(new)
        return new.flatten(-2) if self.layout == "split" else new


def adapter_of(hf_model: Any) -> Any:
    """TransformerLens's adapter of the model's family.

    Raises:
        InputError: a family without one.
    """
    from transformer_lens.factories.architecture_adapter_factory import ArchitectureAdapterFactory
    from transformer_lens.model_bridge.sources import build_bridge_config_from_hf

    name = type(hf_model).__name__
    config = build_bridge_config_from_hf(hf_model.config, name, hf_model.config.model_type, hf_model.dtype)
    try:
        adapter = ArchitectureAdapterFactory.select_architecture_adapter(config)
    except ValueError as error:
        raise InputError(f"{name}: TransformerLens has no adapter for this architecture ({error})") from error
    # Where a newer transformers renamed a module the adapter looks at the model; it changes nothing else
    # but the attention kernel, which is eager already where a pattern can be read.
    kernel = hf_model.config._attn_implementation
    adapter.prepare_model(hf_model)
    if hf_model.config._attn_implementation != kernel:
        hf_model.set_attn_implementation(kernel)
    return adapter


def places(hf_model: Any) -> dict[Site, Place]:
    """Every site that is a side of a module; `attn_scores` and `pattern` are not (see INSIDE_ATTENTION).

    Raises:
        InputError: a family without an adapter, or one whose sites are not sides of modules of their own.
    """
    mapping = adapter_of(hf_model).component_mapping
    blocks = mapping["blocks"]
    found = {
        Site("embed"): Place(mapping["embed"].name, "out"),
        Site("ln_final"): Place(mapping["ln_final"].name, "out"),
    }
    inner = dict(_inside(blocks, hf_model))
    for layer in range(hf_model.config.num_hidden_layers):
        prefix = f"{blocks.name}.{layer}"
        for kind, place in inner.items():
            path = f"{prefix}.{place.path}" if place.path else prefix
            found[Site(kind, layer)] = Place(path, place.side, place.layout, place.n_heads, place.columns)
    modules = dict(hf_model.named_modules())
    first = {kind: f"{blocks.name}.0.{place.path}".rstrip(".") for kind, place in inner.items()}
    nowhere = [f"{kind} ({path})" for kind, path in first.items() if path not in modules]
    nowhere += [kind for kind in RESIDUAL if kind not in inner]
    if nowhere:
        raise _unreadable(", ".join(nowhere))
    return found


def _unreadable(what: str) -> InputError:
    return InputError(
        f"TransformerLens's adapter of this family has no module of its own for {what} (fused, scaled or routed), "
        "so it can be neither read nor edited; see docs/add-a-model-family.md"
    )


def residual_kinds(blocks: Any) -> dict[str, tuple[str, str]]:
    """Residual kind -> (component, side) of the adapter's own aliases, e.g. attn_out -> (ln1_post, out)."""
    out: dict[str, tuple[str, str]] = {}
    for kind in ("resid_pre", "resid_mid", "resid_post", "attn_out", "mlp_out"):
        alias = blocks.hook_aliases.get(f"hook_{kind}")
        if alias is not None:
            component, _, hook = alias.rpartition(".")
            out[kind] = (component, hook.removeprefix("hook_"))
    return out


def _inside(blocks: Any, hf_model: Any) -> Iterator[tuple[str, Place]]:
    for kind, (component, side) in residual_kinds(blocks).items():
        layout: Layout = "in_place" if kind == "resid_mid" else "plain"
        yield kind, Place(_path(blocks, component), _side(side), layout)
    config, attention, mlp = hf_model.config, blocks.submodules["attn"], blocks.submodules["mlp"]
    yield "z", Place(_path(blocks, "attn.o"), "in", "split", config.num_attention_heads)
    names = {"mlp_pre": "hook_pre", "mlp_up": "hook_pre_linear", "mlp_post": "hook_post"}
    for kind, alias in names.items():
        if alias in mlp.hook_aliases:
            component, _, hook = mlp.hook_aliases[alias].rpartition(".")
            yield kind, Place(_path(blocks, f"mlp.{component}"), _side(hook.removeprefix("hook_")))
    yield from _qkv(blocks, attention, hf_model)


def _qkv(blocks: Any, attention: Any, hf_model: Any) -> Iterator[tuple[str, Place]]:
    """q, k after any q/k norm and before rotation; v as projected."""
    config = hf_model.config
    n_kv = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    heads = {"q": config.num_attention_heads, "k": n_kv, "v": n_kv}
    if "qkv" in attention.submodules:
        columns = _fused_columns(blocks, attention, hf_model)
        for kind, n in heads.items():
            yield kind, Place(_path(blocks, "attn.qkv"), "out", "picked", n, columns[kind])
        return
    modules = dict(hf_model.named_modules())
    for kind, n in heads.items():
        path = _path(blocks, f"attn.{kind}_norm") if f"{kind}_norm" in attention.submodules else None
        if path is not None and f"{blocks.name}.0.{path}" in modules:  # a configuration may go without it
            yield kind, Place(path, "out", _norm_layout(hf_model, f"{blocks.name}.0.{path}", n), n)
        else:
            yield kind, Place(_path(blocks, f"attn.{kind}"), "out", "split", n)


def _path(component: Any, dotted: str) -> str:
    """Module path within a block of a component path of the adapter (`attn.o` -> `self_attn.o_proj`)."""
    names: list[str] = []
    for name in dotted.split(".") if dotted else ():
        component = component.submodules.get(name)
        if component is None or component.name is None:
            raise _unreadable(dotted.rstrip("."))
        names.append(component.name)
    return ".".join(names)


def _side(text: str) -> Literal["in", "out"]:
    return "in" if text == "in" else "out"


def _fused_columns(blocks: Any, attention: Any, hf_model: Any) -> dict[str, Tensor]:
    """Which outputs of the fused projection are q, k and v: the adapter's split of a matrix of row numbers."""
    name = attention.submodules["qkv"].name
    real: nn.Module = hf_model.get_submodule(f"{blocks.name}.0.{attention.name}.{name}")
    weight: Tensor = real.weight  # pyright: ignore[reportAssignmentType]
    width = real.nf if hasattr(real, "nf") else weight.shape[0]  # Conv1D stores [in, out]
    numbers = torch.arange(int(str(width)), dtype=torch.float32)
    rows = numbers.expand(weight.shape) if hasattr(real, "nf") else numbers[:, None].expand(weight.shape)
    fake = SimpleNamespace(**{name: SimpleNamespace(weight=rows.clone(), bias=numbers.clone())})
    parts = attention.split_qkv_matrix(fake)
    return {kind: part.weight[:, 0].detach().long() for kind, part in zip("qkv", parts, strict=True)}


class _Seen(Exception):
    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        self.shape = shape


def _norm_layout(hf_model: Any, path: str, n_heads: int) -> Layout:
    """How a q or k norm sees heads: looked at in a pass that ends there (families differ and change)."""

    def look(_module: nn.Module, _args: Any, out: Tensor) -> None:
        raise _Seen(tuple(out.shape))

    handle = hf_model.get_submodule(path).register_forward_hook(look)
    length = n_heads + 1
    ids = torch.zeros(1, length, dtype=torch.long, device=hf_model.device)
    try:
        with torch.no_grad():
            hf_model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False)
    except _Seen as seen:
        if len(seen.shape) == 3:
            return "split"
        if len(seen.shape) == 4:
            return "heads_first" if seen.shape[1] == n_heads else "plain"
    finally:
        handle.remove()
    raise ProbeError(f"{path}: the layout of this norm's output is not known to this toolkit")
