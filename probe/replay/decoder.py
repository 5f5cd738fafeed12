"""A plain Hugging Face decoder, block by block: its own modules, called on chosen rows with a given attention.

The blocks' norms, projections, rotary embeddings and MLPs act on each token alone; only attention mixes them.
So a block can be called on any *rows* (tokens of many runs, joined on the position axis) if attention is handed
in from outside. transformers looks the attention function up by name at every call, which is the one seam used.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import nn

from probe import families
from probe.backends.hooks import Port, attached
from probe.backends.in_process import logits_of, unembedded
from probe.backends.observed import accepted
from probe.errors import InputError, ProbeError
from probe.sites import Site

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from probe.backends.place import Map

Call: TypeAlias = dict[str, Any]
"""Keyword arguments of a block."""

Attend: TypeAlias = "Callable[[Tensor, Tensor, Tensor, float, float | None], Tensor]"
"""(q [1 head row d], k, v, scale, softcap) -> z [1 row head d]."""

_NAME = "probe_replay"
_ATTEND: ContextVar[Attend] = ContextVar("probe_replay_attend")
_CACHES = ("past_key_values", "past_key_value", "layer_past")


class NotByRowsError(ProbeError):
    """A block cannot be run on chosen rows: what it does with other positions is not known here."""


class _Stopped(Exception):
    """Carries q, k, v out of a block that is not run further."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor) -> None:
        super().__init__()
        self.qkv = (q, k, v)


def _attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, **kwargs: Any
) -> tuple[Tensor, None]:
    """Called by transformers' attention modules, with its own names: some pass them as keywords."""
    del module, attention_mask
    if kwargs.get("s_aux") is not None:
        raise NotByRowsError("its attention has a sink beside the keys")
    scale = kwargs.get("scaling")
    scale = query.shape[-1] ** -0.5 if scale is None else float(scale)
    return _ATTEND.get()(query, key, value, scale, kwargs.get("softcap")).contiguous(), None


class _Read(Exception):
    """Ends a block once what was asked for is read."""


def nothing(q: Tensor, k: Tensor, v: Tensor, scale: float, softcap: float | None) -> Tensor:
    """Attention that gives zeros [item row head d_head].

    Args:
        q: queries [item head row d_head].
        k: not used.
        v: values, of which only the width counts.
        scale: not used.
        softcap: not used.
    """
    del k, scale, softcap
    return q.new_zeros(q.shape[0], q.shape[2], q.shape[1], v.shape[-1])


def _stop(q: Tensor, k: Tensor, v: Tensor, _scale: float, _softcap: float | None) -> Tensor:
    raise _Stopped(q, k, v)


class Decoder:
    """The parts of a Hugging Face causal language model (in eval mode) that replay calls.

    Args:
        hf_model: the model.
        where: the map of its sites, made when it was loaded.
    """

    def __init__(self, hf_model: Any, where: Map) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        ALL_ATTENTION_FUNCTIONS.register(_NAME, _attention)
        self.hf: Any = hf_model
        self.map = where
        self.config: Any = families.of_block(families.text_config(hf_model.config), 0)
        self.base: Any = hf_model.get_submodule(where.trunk)
        self.layers: list[Any] = list(hf_model.get_submodule(where.blocks))
        self.norm: nn.Module = hf_model.get_submodule(where.norm)
        self.unembed: Any = hf_model.get_output_embeddings()
        self.n_heads = families.n_heads(self.config)
        self.n_kv = families.n_kv_heads(self.config)
        self.n_layers = len(self.layers)
        self._configs = {id(c): c for c in (getattr(m, "config", None) for m in hf_model.modules()) if c is not None}
        self._accepts = [_Accepts(layer) for layer in self.layers]

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the residual stream."""
        return self.unembed.weight.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.unembed.weight.device

    def attention(self, layer: int) -> Any:
        """The attention module of a block.

        Raises:
            InputError: a block without one.
        """
        if layer not in self.map.attention:
            raise InputError(f"block {layer} of this {self.config.model_type} model has no attention")
        return self.hf.get_submodule(self.map.attention[layer])

    def enter(
        self, ids: Int[Tensor, "item pos"], mask: Bool[Tensor, "item pos"], position_ids: Int[Tensor, "item pos"]
    ) -> tuple[list[Float[Tensor, "item pos d_model"]], list[Call], Float[Tensor, "item pos d_model"]]:
        """One ordinary forward pass: each block's input, each block's other arguments, the last block's output.

        Args:
            ids: token ids [item pos].
            mask: True at real tokens.
            position_ids: positions as the model counts them.
        """
        inputs: list[Tensor] = []
        calls: list[Call] = []
        last: list[Tensor] = []

        def before(number: int, args: Any, kwargs: Any) -> None:
            x, rest = self._accepts[number].split(args, kwargs)
            inputs.append(x)
            calls.append(rest)

        handles = [
            layer.register_forward_pre_hook(lambda _m, a, k, n=n: before(n, a, k), with_kwargs=True)
            for n, layer in enumerate(self.layers)
        ]
        handles.append(self.norm.register_forward_pre_hook(lambda _m, a: last.append(a[0])))
        try:
            given = {"input_ids": ids, "attention_mask": mask.long(), "position_ids": position_ids, "use_cache": False}
            self.base(**accepted(self.base, given))
        finally:
            for handle in handles:
                handle.remove()
        return inputs, calls, last[0]

    def block(self, layer: int, x: Tensor, call: Mapping[str, object], attend: Attend) -> Tensor:
        """The output of block `layer` for the rows `x` [1 row d_model] (or [item pos d_model]).

        Args:
            layer: the block, from 0.
            x: rows of its input [1 row d_model], or [item pos d_model].
            call: the block's other arguments, as `enter` gives them.
            attend: attention function that takes the place of its own.
        """
        with self._attending(attend):
            out = self.layers[layer](x, **call)
        return out[0] if isinstance(out, tuple) else out

    def projections(self, layer: int, x: Tensor, call: Mapping[str, object]) -> tuple[Tensor, Tensor, Tensor]:
        """q, k, v [item head pos d_head] as attention gets them (normed and rotated); the block stops there.

        Args:
            layer: the block, from 0.
            x: rows of its input [1 row d_model], or [item pos d_model].
            call: the block's other arguments, as `enter` gives them.
        """
        try:
            self.block(layer, x, call, _stop)
        except _Stopped as stopped:
            return stopped.qkv
        raise NotByRowsError(f"block {layer} mixes positions otherwise than by an attention function of transformers")

    def keys(self, layer: int, x: Tensor, call: Mapping[str, object]) -> tuple[Tensor, Tensor]:
        """k, v alone, for rows whose queries nobody reads: the query projection is left out where it can be."""
        with self._left_out(layer, "q"):
            _, k, v = self.projections(layer, x, call)
        return k, v

    def past_attention(self, layer: int, x: Tensor, call: Mapping[str, object]) -> Tensor:
        """The block where the heads' outputs are put in place at the port `z`: nothing before is computed in vain."""
        with self._left_out(layer, "qkv"):
            return self.block(layer, x, call, nothing)

    def z_of(self, layer: int, x: Tensor, call: Mapping[str, object], attended: Tensor) -> Tensor:
        """z [item pos head d_head] if the attention function gives `attended` [item pos head d_head].

        They are the same tensor but where a family norms or gates what attention gives before its heads are mixed.

        Args:
            layer: the block, from 0.
            x: rows of its input [1 row d_model], or [item pos d_model].
            call: the block's other arguments, as `enter` gives them.
            attended: what the attention function gives.
        """
        seen: list[Tensor] = []

        def read(z: Tensor) -> None:
            seen.append(z)
            raise _Read

        place = self.map.places[Site("z", layer)]
        with attached({Port(self.hf.get_submodule(place.path), place): read}, len(x)):
            try:
                self.block(layer, x, call, lambda *_: attended)
            except _Read:
                return seen[0]
        raise ProbeError(f"block {layer} of {type(self.hf).__name__} ran without mixing its heads")

    @contextmanager
    def _left_out(self, layer: int, parts: str) -> Iterator[None]:
        """Within the block these projections give zeros without computing anything (fused ones are computed)."""
        found = [getattr(self.attention(layer), f"{part}_proj", None) for part in parts]
        linears = [linear for linear in found if linear is not None]
        before = [vars(linear).get("forward") for linear in linears]  # a module placed by a device map has its own
        for linear in linears:
            linear.forward = _zeros_of(linear)
        try:
            yield
        finally:
            for linear, own in zip(linears, before, strict=True):
                del linear.forward  # the class's own is back
                if own is not None:
                    linear.forward = own

    def logits_of(self, resid: Float[Tensor, "row d_model"], tokens: Int[Tensor, "row k"]) -> Float[Tensor, "row k"]:
        """Logits of a few tokens of each row; the rest of the vocabulary is not unembedded."""
        weight = self.unembed.weight
        logits = torch.einsum("rd,rkd->rk", self.norm(resid).to(weight.device), weight[tokens.to(weight.device)])
        bias = getattr(self.unembed, "bias", None)
        return logits_of(logits if bias is None else logits + bias[tokens.to(weight.device)], self.config)

    def head(self, resid: Float[Tensor, "row d_model"], *, normed: bool = False) -> Float[Tensor, "row vocab"]:
        """Logits of final residual rows: final norm (unless done), unembedding, the family's factor and soft cap."""
        return logits_of(unembedded(self.unembed, resid if normed else self.norm(resid)), self.config)

    @contextmanager
    def _attending(self, attend: Attend) -> Iterator[None]:
        before = {key: config._attn_implementation for key, config in self._configs.items()}
        token = _ATTEND.set(attend)
        try:
            for config in self._configs.values():
                config._attn_implementation = _NAME
            yield
        finally:
            for key, config in self._configs.items():
                config._attn_implementation = before[key]
            _ATTEND.reset(token)


def _zeros_of(linear: Any) -> Callable[[Tensor], Tensor]:
    # Memory of its own: some families clamp what a projection gives in place.
    return lambda x: x.new_zeros(*x.shape[:-1], linear.out_features)


class _Accepts:
    """How a block takes its arguments: some families pass them by position."""

    def __init__(self, layer: nn.Module) -> None:
        self.names = [n for n in inspect.signature(layer.forward).parameters if n not in ("kwargs", "args")]

    def split(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Call]:
        """The residual input and everything else by name, without caches (replay keeps its own keys)."""
        named = {**dict(zip(self.names, args, strict=False)), **kwargs}
        x = named.pop(self.names[0])
        return x, {k: v for k, v in named.items() if k not in _CACHES and k != "use_cache"}


def rows_of(call: Mapping[str, object], item: Int[Tensor, " row"], pos: Int[Tensor, " row"]) -> dict[str, object]:
    """A block's arguments for rows (item, pos) joined on the position axis; the mask is left to attention.

    Args:
        call: a block's arguments for whole items.
        item: item of each row.
        pos: padded position of each row.
    """
    return {k: None if k == "attention_mask" else _gather(v, item, pos) for k, v in call.items()}


def moved(value: object, device: torch.device) -> Any:
    """A block's arguments on the device it computes on."""
    if isinstance(value, dict):
        return {k: moved(v, device) for k, v in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(v, device) for v in value)
    return value.to(device) if isinstance(value, torch.Tensor) else value


def _gather(value: object, item: Tensor, pos: Tensor) -> Any:
    if isinstance(value, tuple):
        return tuple(_gather(v, item, pos) for v in value)
    if not isinstance(value, torch.Tensor) or value.ndim < 2:
        return value
    return value[item if value.shape[0] > 1 else torch.zeros_like(item), pos][None]
