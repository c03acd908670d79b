"""A second device made of ordinary memory: placement is tested where there is no GPU.

"pretend:0" computes on the processor, with real numbers, but refuses to mix with it as CUDA does:
an index, a mask or a buffer left behind raises RuntimeError. Whole programs run on it.

    with in_use(): model.to("pretend"); torch.zeros(3, device="pretend"); tensor.cpu()

Within `in_use` it is also where accelerate computes. Not for a process that uses a GPU: torch's
autograd knows one accelerator, and would take this one for it. Held against an H200 on torch 2.13:
of 24 ways to run the README's program both failed and passed the same ones, in the same lines. Not
modelled: streams, memory, precision, kernels that CUDA lacks, generators, data pointers (so saving
must be from processor copies).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest.mock import patch

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState

NAME = "pretend"
_aten = torch.ops.aten
# What may read both devices: copies, and an index of a device tensor by positions on the processor.
_COPIES = {_aten._to_copy.default, _aten.copy_.default}
_INDEXES = {
    _aten.index.Tensor,
    _aten.index_put_.default,
    _aten.index_put.default,
    _aten._index_put_impl_.default,
}
_installed: list[object] = []


class Pretend(torch.Tensor):
    """A tensor that says it is on the second device; `raw` holds its numbers."""

    @staticmethod
    def __new__(cls, raw: torch.Tensor) -> Pretend:
        layout = {"strides": raw.stride(), "storage_offset": raw.storage_offset()}
        kind = {"dtype": raw.dtype, "device": torch.device(NAME, 0)}
        out = torch.Tensor._make_wrapper_subclass(cls, raw.shape, **layout, **kind)
        out.raw = raw
        return out

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})

    def tolist(self):
        return self.raw.tolist()

    def numpy(self, *args, **options):
        raise TypeError(
            f"can't convert {NAME}:0 device type tensor to numpy: use Tensor.cpu() to copy it"
        )

    def __repr__(self, *args, **options) -> str:
        return f"{NAME}({self.raw!r})"


def _run(func, args, kwargs):
    """Compute on the processor what is asked of the device, once its inputs are looked at."""
    here, away = [], []

    def raw(x):
        if isinstance(x, Pretend):
            here.append(x)
            return x.raw
        if x.dim() > 0:
            away.append(x)
        return x

    given, named = _mapped(raw, args), {name: _mapped(raw, x) for name, x in kwargs.items()}
    allowed = func in _COPIES or (func in _INDEXES and isinstance(args[0], Pretend))
    if here and away and not allowed:
        raise RuntimeError(
            f"expected all tensors on one device, found two: {NAME}:0 and cpu ({func})"
        )
    if func is _aten._local_scalar_dense.default:
        return func(args[0].raw)
    target = kwargs.get("device")
    wanted = bool(here) if target is None else torch.device(target).type == NAME
    named.pop("pin_memory", None)
    if target is not None:
        named["device"] = torch.device("cpu")
    out = func(*given, **named)
    if func is _aten.copy_.default:
        return args[0]
    known = {id(x.raw): x for x in here}  # in-place operations return the tensor they were given

    def wrapped(x):
        if isinstance(x, Pretend) or not wanted:
            return x
        return known[id(x)] if id(x) in known else Pretend(x)

    return _mapped(wrapped, out)


def _mapped(change, x):
    """`x` with its tensors changed, also those in lists and tuples, as an operator takes them."""
    if isinstance(x, torch.Tensor):
        return change(x)
    return type(x)([_mapped(change, y) for y in x]) if type(x) in (list, tuple) else x


# What torch asks of `torch.<device>`.
_MODULE = SimpleNamespace(
    is_available=lambda: True,
    is_initialized=lambda: True,
    _is_in_bad_fork=lambda: False,
    device_count=lambda: 1,
    current_device=lambda: 0,
    manual_seed_all=lambda seed: None,
    get_rng_state=lambda *_: torch.zeros(1, dtype=torch.uint8),
    set_rng_state=lambda *_: None,
    is_bf16_supported=lambda *_: True,
    get_amp_supported_dtype=lambda: [torch.bfloat16, torch.float16],
    empty_cache=lambda: None,
    synchronize=lambda *_: None,
)


def install() -> None:
    """Make the device known to this process; nothing else changes until it is `in_use`."""
    if _installed:
        return
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend(NAME, backend_module=_MODULE)
    library = torch.library.Library("_", "IMPL")
    library.fallback(lambda op, *args, **kwargs: _run(op, args, kwargs), "PrivateUse1")
    _installed.append(library)


@contextmanager
def in_use(device: str = NAME) -> Iterator[torch.device]:
    """Make accelerate compute on a device, this one or another, as if it had found it itself."""
    if device == NAME:
        install()
    where = torch.device(device, 0)
    AcceleratorState._reset_state(True)
    with ExitStack() as undone:
        undone.callback(AcceleratorState._reset_state, True)
        kept = {k: v for k, v in os.environ.items() if k != "ACCELERATE_USE_CPU"}
        undone.enter_context(patch.dict(os.environ, kept, clear=True))
        PartialState()
        PartialState._shared_state["device"] = where
        if device == NAME:
            _fill_gaps(undone)
        yield where


def _fill_gaps(undone: ExitStack) -> None:
    """Do in Python what a Python backend lacks."""
    for name in ("tensor", "as_tensor"):
        undone.enter_context(patch.object(torch, name, _made_then_moved(getattr(torch, name))))
    undone.enter_context(patch.object(torch.nn.Module, "_apply", _tied(torch.nn.Module._apply)))


def _tied(apply):
    """Parameters are swapped for the moved ones, not replaced: tied weights stay tied, as there."""

    def applied(module, fn, recurse=True):
        devices = {fn(torch.empty(0)).device.type, *(p.device.type for p in module.parameters())}
        before = torch.__future__.get_swap_module_params_on_conversion()
        torch.__future__.set_swap_module_params_on_conversion(NAME in devices)
        try:
            return apply(module, fn, recurse)
        finally:
            torch.__future__.set_swap_module_params_on_conversion(before)

    return applied


def _made_then_moved(make):
    def made(*args, device=None, **options):
        out = make(*args, **options)
        return out if device is None else out.to(device)

    return made
