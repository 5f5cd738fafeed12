"""A pretend accelerator: tensors on `sim:0` and `sim:1` live apart from the CPU's and from one another's.

What a GPU would find on the first run, it finds without one: a target left on the CPU, `.numpy()` of a device
tensor, a constant or a generator of another device, blocks of a device map whose tensors mix. Arithmetic runs on
the CPU, so numbers equal the CPU's. It says nothing of speed, memory or rounding of real hardware; kernels chosen
by the kind of device take torch's generic road.

    with pretend.accelerator():
        model = Model.load(folder, device="sim:0")

A backend written in Python needs `torch.utils.backend_registration` (experimental, torch 2.10 and later). A tensor
there is a wrapper that holds an ordinary one; every operation is checked, then done on what the wrappers hold.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import library
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

NAME, COUNT = "sim", 2
BETWEEN_DEVICES = ("aten::copy_", "aten::_copy_from", "aten::set_")
MOVES = ("aten::_to_copy", "aten::to")
INDEXED = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class _Module:
    """What torch asks of a device's module (`torch.sim`); outside `accelerator()` there is no such device."""

    inside = 0

    def is_initialized(self) -> bool:
        return True

    def is_available(self) -> bool:
        return self.inside > 0

    def current_device(self) -> int:
        return 0

    def device_count(self) -> int:
        return COUNT if self.inside else 0

    def _is_in_bad_fork(self) -> bool:
        return False

    def _lazy_init(self) -> None: ...

    def manual_seed(self, seed: int) -> None: ...

    def manual_seed_all(self, seed: int) -> None: ...

    def synchronize(self, *_: Any) -> None: ...

    def empty_cache(self) -> None: ...

    def mem_get_info(self, *_: Any) -> tuple[int, int]:
        return 2**31, 2**32

    def memory_reserved(self, *_: Any) -> int:
        return 0

    def get_rng_state(self, *_: Any) -> torch.Tensor:
        return torch.get_rng_state()

    def set_rng_state(self, state: torch.Tensor, *_: Any) -> None: ...

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16, torch.float16]


_module = _Module()
_setup_privateuseone_for_python_backend(NAME, backend_module=_module)


class Away(torch.Tensor):
    """A tensor on a pretend device; `here` is the ordinary tensor with its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor, device: torch.device, requires_grad: bool = False) -> Away:
        return torch.Tensor._make_wrapper_subclass(
            cls,
            here.size(),
            strides=here.stride(),
            storage_offset=here.storage_offset(),
            dtype=here.dtype,
            layout=here.layout,
            device=device,
            requires_grad=requires_grad,
        )

    def __init__(self, here: torch.Tensor, device: torch.device, requires_grad: bool = False) -> None:
        self.here = here

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _done(func, args, kwargs or {})

    @property
    def data(self) -> Any:
        return self.detach()

    @data.setter
    def data(self, value: Away) -> None:
        torch.Tensor.data.__set__(self, value)  # sizes and device; the numbers are ours to keep
        self.here = value.here

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() first.")

    __array__ = numpy

    def __bool__(self) -> bool:
        return bool(self.here)

    def __int__(self) -> int:
        return int(self.here)

    def __float__(self) -> float:
        return float(self.here)

    def __index__(self) -> int:
        return self.here.__index__()

    def __repr__(self, *_: Any, **__: Any) -> str:
        return f"{self.device}: {self.here!r}"

    def tolist(self) -> Any:
        return self.here.tolist()

    def data_ptr(self) -> int:
        return self.here.data_ptr()

    def untyped_storage(self) -> Any:
        return self.here.untyped_storage()

    def __getitem__(self, index: Any) -> Any:
        return super().__getitem__(_lists_as_tensors(index))

    def __setitem__(self, index: Any, value: Any) -> None:
        super().__setitem__(_lists_as_tensors(index), value)

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        if id(self) not in memo:
            copied = Away(self.here.clone(), self.device)
            is_parameter = isinstance(self, torch.nn.Parameter)
            memo[id(self)] = torch.nn.Parameter(copied, self.requires_grad) if is_parameter else copied
        return memo[id(self)]


def _lists_as_tensors(index: Any) -> Any:
    """Lists as indices: under `torch.inference_mode` torch cannot take them for a Python backend."""

    def one(part: Any) -> Any:
        return torch.tensor(part, dtype=None if part else torch.long) if isinstance(part, list) else part

    return tuple(map(one, index)) if isinstance(index, tuple) else one(index)


def _sim(device: Any) -> torch.device | None:
    """The pretend device named, with its number; None for any other."""
    if device is None:
        return None
    found = torch.device(device)
    return torch.device(NAME, found.index or 0) if found.type == NAME else None


def _refuse_mixed(func: Any, args: Any, flat: Sequence[Any]) -> None:
    """As on real devices: one device per operation; numbers without dimension, and indices on the CPU, may join."""
    name = func._schema.name
    tensors = [t for t in flat if isinstance(t, torch.Tensor) and t.device.type != "meta"]
    if name in BETWEEN_DEVICES:
        return
    if name in INDEXED:
        # An index may also be on the CPU; what is put in may not.
        listed = [i for i in args[1] if i is not None and i.device.type != "cpu"]
        tensors = [args[0], *listed, *(t for t in args[2:3] if isinstance(t, torch.Tensor))]
    found = {str(t.device) for t in tensors if t.dim() or t.device.type == NAME}
    if len(found) > 1:
        shapes = [(str(t.device), tuple(t.shape)) for t in tensors]
        raise RuntimeError(f"Expected all tensors to be on the same device: {func} got {shapes}")


def _done(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """The operation on what the wrappers hold, wrapped for the device it belongs to."""
    flat, spec = tree_flatten((args, kwargs))
    away = [t for t in flat if isinstance(t, Away)]
    name = func._schema.name
    if name not in MOVES:
        _refuse_mixed(func, args, flat)
    target = _target(func, args, kwargs, away)
    if target is not None and kwargs.get("generator") is not None:
        raise RuntimeError(f"Expected a {NAME!r} device type for generator but found 'cpu'")
    held = [t.here if isinstance(t, Away) else torch.device("cpu") if _is_device(t) else t for t in flat]
    args_, kwargs_ = tree_unflatten(held, spec)
    kwargs_.pop("pin_memory", None)
    if name == "aten::copy_":
        args_[0].copy_(args_[1])
        return args[0]
    out = func(*args_, **kwargs_)
    if name == "aten::_local_scalar_dense" or (target is None and name not in MOVES):
        return out
    if name in MOVES:
        return _landed(out, args[0], args_[0], target)
    known = {id(t.here): t for t in away}

    def wrapped(t: Any) -> Any:
        if id(t) in known:  # an operation in place gives back what it was given
            return known[id(t)]
        return Away(t, target) if isinstance(t, torch.Tensor) and not isinstance(t, Away) else t

    return tree_map(wrapped, out)


def _target(func: Any, args: Any, kwargs: dict[str, Any], away: Sequence[Away]) -> torch.device | None:
    """The pretend device a result belongs to; None: the CPU."""
    if func._schema.name in MOVES:
        other = next((a for a in args[1:] if isinstance(a, torch.device | torch.Tensor)), kwargs.get("device"))
        found = args[0] if other is None else other
        return _sim(found.device if isinstance(found, torch.Tensor) else found)
    asked = kwargs.get("device")
    return _sim(asked) if asked is not None else away[0].device if away else None


def _landed(out: torch.Tensor, source: Any, held: torch.Tensor, target: torch.device | None) -> torch.Tensor:
    """A tensor that was moved: itself where nothing changed, else memory of its own."""
    if out is held and source.device == (target or torch.device("cpu")):
        return source
    out = out.clone() if out.data_ptr() == held.data_ptr() else out
    return out if target is None else Away(out, target)


def _is_device(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type == NAME


class _Mode(TorchDispatchMode):
    """Catches what is made on a pretend device from nothing."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        flat, _ = tree_flatten((args, kwargs))
        if any(isinstance(t, Away) or _is_device(t) for t in flat):
            return _done(func, args, kwargs)
        return func(*args, **kwargs)


@contextmanager
def accelerator() -> Iterator[None]:
    """Within the block `sim:0` and `sim:1` are devices like any other."""
    _module.inside += 1
    try:
        with _Mode():
            yield
    finally:
        _module.inside -= 1


def _empty_strided(size: Any, stride: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Away:
    return Away(torch.empty_strided(size, stride, dtype=dtype), _sim(device) or torch.device(NAME, 0))


def _empty(size: Any, *, dtype: Any = None, device: Any = None, **_: Any) -> Away:
    return Away(torch.empty(size, dtype=dtype), _sim(device) or torch.device(NAME, 0))


def _copy_from(source: torch.Tensor, target: torch.Tensor, _non_blocking: bool = False) -> torch.Tensor:
    plain = [t.here if isinstance(t, Away) else t for t in (source, target)]
    plain[1].copy_(plain[0])
    return target


# What torch makes from C++ passes neither the wrapper nor the mode.
_aten = library.Library("aten", "IMPL")
_aten.impl("empty_strided", _empty_strided, "PrivateUse1")
_aten.impl("empty.memory_format", _empty, "PrivateUse1")
_aten.impl("_copy_from", _copy_from, "PrivateUse1")
_others = library.Library("_", "IMPL")
_others.fallback(lambda op, *args, **kwargs: _done(op, args, kwargs), "PrivateUse1")
