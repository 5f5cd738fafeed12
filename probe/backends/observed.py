"""One short pass through a model, noted module by module: what each took and gave, in which order, and from whom."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from probe import devices, families
from probe.backends.softmax import Door, Softmaxes, is_over_keys
from probe.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.hooks import RemovableHandle
    from transformers import PreTrainedModel


@dataclass
class Call:
    """A module's first call: its tensor arguments and results (and their `values` as they were then).

    `times`: calls in all; `last`: what the last of them gave.
    """

    path: str
    entered: int
    left: int = 0
    took: tuple[Tensor | None, ...] = ()
    gave: tuple[Tensor | None, ...] = ()
    times: int = 1
    last: Tensor | None = None
    values: dict[str, Tensor] = field(default_factory=dict[str, "Tensor"])

    @property
    def first(self) -> Tensor | None:
        """What it works on."""
        return self.took[0] if self.took else None

    @property
    def out(self) -> Tensor | None:
        """What it gives first."""
        return self.gave[0] if self.gave else None

    def is_rewritten(self, side: str) -> bool:
        """Whether the model wrote into this tensor after the module had it."""
        now, then = self.first if side == "in" else self.out, self.values.get(side)
        return now is not None and then is not None and devices.has_numbers(now) and not torch.equal(now, then)


@dataclass
class Observed:
    """A pass over `n_items` x `n_pos` tokens through the decoder `trunk`, whose blocks are the list `blocks`.

    `doors`: the softmax over keys of each block that has one in the open. `fused`: modules that attend in one call.
    """

    blocks: str
    trunk: str
    n_items: int
    n_pos: int
    calls: dict[str, Call]
    doors: dict[int, Door]
    fused: set[str]
    is_real: bool
    last: Tensor

    def once(self, *paths: str) -> Call | None:
        """The first of these modules that ran exactly once."""
        return next((c for c in map(self.calls.get, paths) if c is not None and c.times == 1), None)

    def under(self, prefix: str) -> list[Call]:
        """Calls of a module's direct children, in the order they began."""
        depth = prefix.count(".") + 1
        found = [c for p, c in self.calls.items() if p.startswith(f"{prefix}.") and p.count(".") == depth]
        return sorted(found, key=lambda c: c.entered)


def kept_in(x: Tensor | None) -> int:
    """Which memory a tensor lies in: equal for a tensor and its views, on every device (meta too)."""
    return 0 if x is None else x.untyped_storage()._cdata  # pyright: ignore[reportPrivateUsage]


def block_list(hf_model: PreTrainedModel) -> str:
    """Path of the list of blocks.

    Raises:
        InputError: no list of as many modules as the configuration has blocks.
    """
    n = families.n_layers(families.text_config(hf_model.config))
    found = [p for p, m in hf_model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == n]
    reading = [p for p in found if _reads_ids(hf_model, p.rpartition(".")[0])]
    if not n or not reading:
        raise InputError(
            f"{type(hf_model).__name__}: no list of {n} blocks in a module that reads token ids, so it is no decoder "
            "this toolkit can look into; expected a decoder-only language model of transformers"
        )
    return min(reading, key=lambda path: path.count("."))


def _reads_ids(hf_model: PreTrainedModel, path: str) -> bool:
    return "input_ids" in inspect.signature(hf_model.get_submodule(path).forward).parameters


def accepted(module: Any, given: dict[str, Any]) -> dict[str, Any]:
    """The arguments a module's forward takes by name (families without positions take none)."""
    parameters = inspect.signature(module.forward).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()) and "input_ids" not in parameters:
        return given
    return {k: v for k, v in given.items() if k in parameters}


def observe(hf_model: Any) -> Observed:
    """The pass. Its length is none of the family's own sizes, so a shape tells which axis is which.

    Raises:
        InputError: the model does not run on plain token ids, or its blocks cannot be found.
    """
    config = families.of_block(families.text_config(hf_model.config), 0)
    blocks = block_list(hf_model)
    heads = families.n_heads(config)
    taken = {2, heads, families.n_kv_heads(config), families.number(config, "head_dim") or 0}
    n_pos = next(n for n in range(5, 64) if n not in taken)
    device = hf_model.get_input_embeddings().weight.device
    ids = (torch.arange(2 * n_pos, device=device).view(2, n_pos) * 7 + 3) % int(config.vocab_size)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "use_cache": False}
    given["position_ids"] = torch.arange(n_pos, device=device).expand(2, -1)
    path = blocks.rpartition(".")[0]
    trunk = hf_model.get_submodule(path)
    noted = _Notes(hf_model, blocks, heads, n_pos)
    try:
        with torch.no_grad(), noted:
            out = trunk(**accepted(trunk, given))
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError, NotImplementedError) as error:
        raise InputError(
            f"{type(hf_model).__name__} does not run on token ids alone ({type(error).__name__}: {error}); expected a "
            "decoder-only language model"
        ) from error
    is_real = devices.has_numbers(hf_model.get_input_embeddings().weight)
    last = getattr(out, "last_hidden_state", None)
    if last is None or last.shape[:2] != ids.shape:
        raise InputError(f"{type(hf_model).__name__}: its decoder gives no last_hidden_state [item pos d_model]")
    if is_real and not bool(last.isfinite().all()):  # what adds up cannot be told from NaN
        raise InputError(why_broken(hf_model))
    return Observed(blocks, path, 2, n_pos, noted.calls, noted.doors, noted.fused, is_real, last)


class _Notes:
    """Hooks on every module of interest while entered."""

    def __init__(self, hf_model: PreTrainedModel, blocks: str, n_heads: int, n_pos: int) -> None:
        self.calls: dict[str, Call] = {}
        self.doors: dict[int, Door] = {}
        self.fused: set[str] = set()
        self._found: list[int] = []
        self._clock = 0
        self._open: list[str] = []
        self._n_heads, self._n_pos = n_heads, n_pos
        self._prefix = f"{blocks}."
        self._softmaxes = Softmaxes(self._note_softmax)
        self._modules = {p: m for p, m in hf_model.named_modules() if p and not p.startswith(blocks)}
        self._modules |= {p: m for p, m in hf_model.named_modules() if p.startswith(self._prefix)}
        self._handles: list[RemovableHandle] = []

    def __enter__(self) -> None:
        for path, module in self._modules.items():
            self._handles.append(module.register_forward_pre_hook(self._before(path), with_kwargs=True))
            self._handles.append(module.register_forward_hook(self._after(path)))
        self._softmaxes.__enter__()

    def __exit__(self, *error: object) -> None:
        self._softmaxes.__exit__(*error)
        for handle in self._handles:
            handle.remove()

    def _before(self, path: str) -> Any:
        def note(_module: object, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
            self._clock += 1
            self._open.append(path)
            if path in self.calls:
                self.calls[path].times += 1
                return
            call = Call(path, self._clock, took=_tensors(args or (kwargs.get("hidden_states"),)))
            self.calls[path] = call
            if call.first is not None:
                call.values["in"] = call.first.clone()

        return note

    def _after(self, path: str) -> Any:
        def note(_module: object, _args: object, out: object) -> None:
            self._clock += 1
            self._open.pop()
            call = self.calls[path]
            call.last = next(iter(_tensors(out if isinstance(out, (tuple, list)) else (out,))), None)
            if call.times == 1:
                call.left = self._clock
                call.gave = _tensors(out if isinstance(out, (tuple, list)) else (out,))
                if call.out is not None:
                    call.values["out"] = call.out.clone()

        return note

    def _note_softmax(self, x: Tensor | None, caller: str) -> None:
        inside = next((p for p in reversed(self._open) if p.startswith(self._prefix)), None)
        if inside is not None and x is None:
            self.fused.add(inside)
        if inside is None or x is None or not is_over_keys(x, self._n_heads):
            return
        layer = int(inside.removeprefix(self._prefix).split(".")[0])
        if x.shape[-2] == self._n_pos and x.shape[-1] in (self._n_pos, self._n_pos + 1):
            self._found.append(layer)
            self.doors[layer] = Door(inside, self._n_heads, x.shape[-1] == self._n_pos + 1, caller)
            if self._found.count(layer) > 1:  # which of them is the pattern cannot be told
                self.doors[layer] = replace(self.doors[layer], n_heads=0)


def _tensors(values: Sequence[object]) -> tuple[Tensor | None, ...]:
    return tuple(v if isinstance(v, torch.Tensor) else None for v in values)


def why_broken(hf_model: PreTrainedModel) -> str:
    """What makes states and logits of plain transformers NaN or infinite."""
    bad = [n for n, p in hf_model.named_parameters() if devices.has_numbers(p) and not bool(p.isfinite().all())]
    if bad:
        return f"{len(bad)} weights are not finite (NaN or infinite), e.g. {bad[:3]}: the checkpoint is broken"
    dtype = str(hf_model.dtype).removeprefix("torch.")
    return f"states or logits are not finite in {dtype} though all weights are: load the model as bfloat16 or float32"
