"""Names for Python values by what they compute: equal in every process, another after a change.

Code counts by what runs: its instructions, defaults, closures, and the values of the globals that
it loads, helpers included; comments, docstrings and layout are no part of it. Installed libraries
count by name, never this package, which counts as the user's own code does. Objects count by what
pickling would keep of them, tensors by type, shape and bytes.

What code keeps for itself is no setting: globals and outer variables that it assigns, and cached
properties. Out of sight is what a value reaches for when it runs: files, servers, the environment,
attributes looked up by a computed name, hooks on modules, an installed package's version. Another
version of Python has other instructions and so other names. `model_fingerprints` names models.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import hashlib
import inspect
import json
import types

import torch
from torch import Tensor

from bondlab.naming import code as code_of

_PLAIN = (type(None), bool, int, float, complex, str, type(...), type(NotImplemented))
_Cached = type(functools.lru_cache(len))
_ROWS = (list, tuple, type({}.keys()), type({}.values()), type({}.items()))


class Unnamed(ValueError):
    """A value that has no name: a lock, a socket, an open file, a generator."""


def of(value: object, path: str = "value") -> str:
    """Twelve hex digits that name a value.

    Args:
        value: anything.
        path: what errors call it.

    Raises:
        Unnamed: it holds something that cannot be named; the message says where.
    """
    try:
        return _Walk().name(value, path)[:12]
    except RecursionError:
        raise Unnamed(f"{path} cannot be named: it is nested too deep") from None


def label(value: object, path: str = "value") -> str:
    """A readable name and the digest: jeffreys@0123456789ab. Raises as `of`."""
    inner = value
    while isinstance(inner, functools.partial):
        inner = inner.func
    readable = getattr(inner, "__name__", None) or type(inner).__name__
    return f"{readable}@{of(value, path)}"


class _Walk:
    """One value's naming: what was seen before keeps its name, what contains itself ends there."""

    def __init__(self) -> None:
        self.seen: dict[int, tuple[object, str]] = {}  # holds the value, or its id would be reused
        self.open: list[int] = []

    def name(self, value: object, path: str) -> str:
        kind, key = type(value), id(value)
        if kind in _PLAIN:
            return _digest(kind.__name__, repr(value))
        if key in self.seen:
            return self.seen[key][1]
        if key in self.open:
            return _digest("contains itself", len(self.open) - self.open.index(key))
        self.open.append(key)
        self.seen[key] = value, _digest(kind.__name__, *self._held(value, path))
        self.open.pop()
        return self.seen[key][1]

    def _held(self, value: object, path: str) -> list[str]:
        """Names of what a value holds."""
        kind = type(value)
        if kind in _ROWS:
            return [self.name(item, f"{path}[{i}]") for i, item in enumerate(value)]
        if kind in (dict, types.MappingProxyType):
            pairs = [((key, item), f"{path}[{key!r}]") for key, item in value.items()]
            return [self.name(each, where) for pair, where in pairs for each in pair]
        if kind in (set, frozenset):  # whose order is not the same in every process
            return sorted(_Walk().name(item, f"{path}{{}}") for item in value)
        if kind in (bytes, bytearray):
            return [hashlib.sha256(value).hexdigest()]
        try:
            named = parts(value)
        except Unnamed as error:
            raise Unnamed(f"{path} cannot be named: it is {error}") from None
        ends = {name: f"{path}.{name.rpartition(' ')[2]}" for name in sorted(named)}
        return [each for name in ends for each in (name, self.name(named[name], ends[name]))]


def _digest(*words: object) -> str:
    return hashlib.sha256(json.dumps(words).encode()).hexdigest()


@functools.singledispatch
def parts(value: object) -> dict[str, object]:
    """What an object consists of: what pickling would keep of it, attributes by their names.

    Rules for other kinds are registered with it. Errors take a name's last word for an attribute.

    Raises:
        Unnamed: it cannot be pickled.
    """
    reduce = copyreg.dispatch_table.get(type(value), lambda value: value.__reduce_ex__(4))
    try:
        reduced = reduce(value)
    except Exception:  # whatever an object raises that was not made to be copied
        raise Unnamed(f"a {type(value).__name__}") from None
    if isinstance(reduced, str):  # a global's name
        return {"its class": type(value), "its name": [getattr(value, "__module__", None), reduced]}
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    found = {"its class": type(value), "its maker": make, "its arguments": arguments}
    found |= {"its items": list(items or ()), "its pairs": list(pairs or ())}
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state = {**(state[0] or {}), **state[1]}  # of a class with slots
    state = {} if state is None else state
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        return found | {"its state": state}
    return found | {name: held for name, held in state.items() if not _kept(type(value), name)}


def _kept(kind: type, name: str) -> bool:
    """Whether objects of the kind work this attribute out themselves when they are used."""
    counter = name == "call_count" and code_of.installed_class(kind)  # of transformers' pipelines
    return counter or isinstance(getattr(kind, name, None), functools.cached_property)


@parts.register
def _(value: Tensor) -> dict[str, object]:
    if value.layout != torch.strided:
        return parts.dispatch(object)(value)
    if value.device.type == "meta":
        raise Unnamed("a tensor without values")
    value = value.detach().cpu().resolve_conj().resolve_neg()
    values = (value.dequantize() if value.is_quantized else value).contiguous()
    data = values.reshape(-1).view(torch.uint8).numpy()  # a view of no dimension has no bytes
    digest = hashlib.sha256(data).hexdigest()
    return {"its type": str(value.dtype), "its shape": list(value.shape), "its values": digest}


@parts.register
def _(value: torch.layout | types.GetSetDescriptorType) -> dict[str, object]:
    return {"its name": repr(value)}


@parts.register
def _(value: types.FunctionType) -> dict[str, object]:
    if original := vars(value).get("_torchdynamo_orig_callable"):  # of torch.compile
        return {"compiled": original}
    code, space, given = value.__code__, value.__globals__, value.__defaults__ or ()
    optional = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    defaults = dict(zip(optional, given, strict=True)) | (value.__kwdefaults__ or {})
    found = vars(value) | {f"default {name}": held for name, held in defaults.items()}
    steps, empty = code_of.steps(code), types.CellType()
    assigned = code_of.assigned(steps)
    for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
        if name not in assigned and cell != empty:
            found[f"outer {name}"] = cell.cell_contents
    if code_of.installed(space.get("__name__")):
        return found | {"its name": [space["__name__"], code.co_qualname]}
    for name, *attributes in code_of.loaded(steps):
        if name not in space and not hasattr(builtins, name):
            raise Unnamed(f"code that uses {name}, which is not defined yet")
        held = space.get(name)
        for attribute in attributes:  # of the user's modules
            module = isinstance(held, types.ModuleType) and not code_of.installed(held.__name__)
            if not module or not hasattr(held, attribute):
                break
            name, held = f"{name}.{attribute}", getattr(held, attribute)
        found[f"global {name}"] = held
    modules = code_of.imported(steps, space.get("__package__"))
    for name, module in modules.items():
        read = code_of.settings(steps, module)
        found |= {f"{name}.{setting}": value for setting, value in read.items()}
    return found | {"its code": steps} | modules


@parts.register
def _(value: staticmethod | classmethod | property | functools.cached_property | _Cached) -> dict:
    names = ("__wrapped__", "__func__", "fget", "fset", "func")
    return {name: getattr(value, name, None) for name in names}


@parts.register
def _(value: type) -> dict[str, object]:
    """A library's class by its name, any other by its bases, methods and attributes."""
    if code_of.installed_class(value):
        return {"its name": [value.__module__, value.__qualname__]}
    code = (staticmethod, classmethod, property)
    members = {
        name: member
        for name, member in vars(value).items()
        if callable(member)
        or isinstance(member, code)
        or not (name.startswith("__") or name == "_abc_impl")
    }
    return members | {"its name": value.__qualname__, "its bases": value.__bases__}


@parts.register
def _(value: types.ModuleType) -> dict[str, object]:
    """A library's module by its name, a user's by its code and that of the user's modules in it."""
    try:
        source = None if code_of.installed(value.__name__) else inspect.getsource(value)
    except (OSError, TypeError):
        source = None
    if source is None:
        return {"its name": value.__name__}
    steps = code_of.steps(compile(source, "<module>", "exec", dont_inherit=True))
    return {"its code": steps} | code_of.imported(steps, value.__package__)
