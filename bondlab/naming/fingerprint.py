"""Names for Python values by what they compute: equal in every process, another after a change.

Code counts by what runs: source without comments and docstrings, defaults, closures, and the values
of the globals it loads, helpers included. Installed libraries count by name, never this package,
which counts as the user's own code does. Objects count by what pickling would keep of them, tensors
by type, shape and bytes.

What code keeps for itself is no setting: globals and outer variables that it assigns, and cached
properties. Out of sight is what a value reaches for when it runs: files, servers, the environment,
attributes looked up by a computed name, hooks on modules, an installed package's version.
`model_fingerprints` names models and tables.
"""

from __future__ import annotations

import builtins
import copyreg
import functools
import hashlib
import inspect
import json
import sys
import types
from collections.abc import Iterator, Mapping, MappingView

import torch
from torch import Tensor

from bondlab.naming import source

# A value's parts: words that stand for themselves, and further values, each with the path to it.
Parts = Iterator[str | tuple[object, str]]

_CACHED = type(functools.lru_cache(len))
_PLAIN = (type(None), bool, int, float, complex, str, type(...), type(NotImplemented))


class Unnamed(ValueError):
    """A value that has no name, at a path: a lock, a socket, an open file, a generator."""

    def __init__(self, path: str, reason: str) -> None:
        super().__init__(f"{path} cannot be named: it is {reason}")


def of(value: object, path: str = "value") -> str:
    """Twelve hex digits that name a value.

    Args:
        value: anything.
        path: what errors call it.

    Raises:
        Unnamed: it holds something that cannot be named.
    """
    try:
        return _Walk().name(value, path)[:12]
    except RecursionError:
        raise Unnamed(path, "nested too deep") from None


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
        if type(value) in _PLAIN:
            return _digest(type(value).__name__, repr(value))
        key = id(value)
        if key in self.seen:
            return self.seen[key][1]
        if key in self.open:
            return _digest("contains itself", len(self.open) - self.open.index(key))
        self.open.append(key)
        names = [p if isinstance(p, str) else self.name(*p) for p in parts(value, path)]
        self.open.pop()
        self.seen[key] = value, _digest(type(value).__name__, *names)
        return self.seen[key][1]


def _digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def named(values: Mapping[str, object], path: str) -> Parts:
    """Attributes: looked up by name, so their order says nothing."""
    for name in sorted(values):
        yield name
        yield values[name], f"{path}.{name}"


# -- objects --------------------------------------------------------------------------------------


@functools.singledispatch
def parts(value: object, path: str) -> Parts:
    """Containers by what they hold, in order; any other object by what pickling keeps of it."""
    if type(value) in (list, tuple):
        for place, item in enumerate(value):
            yield item, f"{path}[{place}]"
    elif type(value) in (dict, types.MappingProxyType):
        for key, item in value.items():
            yield key, f"{path}[{key!r}]"
            yield item, f"{path}[{key!r}]"
    elif type(value) in (set, frozenset):
        walk = _Walk()  # names of their own, since the order of a set is not the same everywhere
        yield from sorted(walk.name(item, f"{path}{{}}") for item in value)
    elif isinstance(value, MappingView):
        yield list(value), path
    elif type(value) in (bytes, bytearray):
        yield hashlib.sha256(value).hexdigest()
    else:
        yield from _pickled(value, path)


def _pickled(value: object, path: str) -> Parts:
    reduce = copyreg.dispatch_table.get(type(value), lambda value: value.__reduce_ex__(4))
    try:
        reduced = reduce(value)
    except Exception:  # whatever an object raises that was not made to be copied
        raise Unnamed(path, f"a {type(value).__name__}") from None
    yield type(value), path
    if isinstance(reduced, str):  # a global's name
        yield f"{getattr(value, '__module__', None)}.{reduced}"
        return
    make, arguments, state, items, pairs = (*reduced, None, None, None)[:5]
    yield make, path
    yield arguments, path
    yield list(items or ()), path
    for key, item in pairs or ():
        yield key, f"{path}[{key!r}]"
        yield item, f"{path}[{key!r}]"
    if isinstance(state, tuple) and len(state) == 2 and isinstance(state[1], dict):
        state = {**(state[0] or {}), **state[1]}  # of a class with slots
    if state is None or isinstance(state, dict) and all(isinstance(name, str) for name in state):
        yield from named(_settings(value, state or {}), path)
    else:
        yield state, path


def _settings(value: object, state: Mapping[str, object]) -> dict[str, object]:
    """An object's attributes without those that it works out itself when they are asked for."""
    kind, cached = type(value), functools.cached_property
    counted = {"call_count"} if source.library_class(kind) else set()  # as transformers' pipelines
    return {
        name: held
        for name, held in state.items()
        if name not in counted and not isinstance(getattr(kind, name, None), cached)
    }


@parts.register
def _(value: Tensor, path: str) -> Parts:
    if value.layout != torch.strided or value.is_quantized:
        yield from _pickled(value, path)
        return
    if value.device.type == "meta":
        raise Unnamed(path, "a tensor without values")
    plain = value.detach().cpu().resolve_conj().resolve_neg().contiguous()
    data = plain.reshape(-1).view(torch.uint8).numpy()  # a view of no dimension has no bytes
    yield from (str(value.dtype), str(list(value.shape)), hashlib.sha256(data).hexdigest())


# -- code -----------------------------------------------------------------------------------------


@parts.register
def _(value: types.FunctionType, path: str) -> Parts:
    if original := vars(value).get("_torchdynamo_orig_callable"):  # of torch.compile
        yield from ("compiled", (original, path))
        return
    code, space = value.__code__, value.__globals__
    given = value.__defaults__ or ()
    optional = code.co_varnames[code.co_argcount - len(given) : code.co_argcount]
    defaults = dict(zip(optional, given, strict=True)) | (value.__kwdefaults__ or {})
    yield from named(defaults, path)
    yield from named(vars(value), path)
    own = source.stored(code)
    for name, cell in zip(code.co_freevars, value.__closure__ or (), strict=True):
        if name not in own:
            yield name
            yield _content(cell), f"{path}.{name}"
    if source.installed(code.co_filename):
        yield f"{space.get('__name__')}.{code.co_qualname}"
        return
    yield source.text(code) or (code, path)
    for name, attribute in source.loaded(code):
        if name in space and name not in own:
            yield f"{name}.{attribute}"
            yield _taken(space[name], attribute), f"{path}.{name}"
        elif name not in own and not hasattr(builtins, name):
            raise Unnamed(f"{path}.{name}", "not defined yet")
    for name, module in source.imported(code, space.get("__package__") or "").items():
        yield name
        yield module, f"{path}.{name}"


def _content(cell: types.CellType) -> object:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None


def _taken(value: object, attribute: str) -> object:
    """Of a user's module what is taken from it, else the value itself."""
    if not attribute or not isinstance(value, types.ModuleType) or source.library(value.__name__):
        return value
    return getattr(value, attribute, value)


@parts.register
def _(value: types.CodeType, path: str) -> Parts:
    yield value.co_code.hex()
    counts = (value.co_argcount, value.co_posonlyargcount, value.co_kwonlyargcount, value.co_flags)
    yield from (str(counts), *value.co_names, *value.co_freevars)
    yield value.co_consts, path


@parts.register
def _(value: types.BuiltinFunctionType, path: str) -> Parts:
    if isinstance(value.__self__, (type(None), types.ModuleType, type)):
        yield f"{value.__module__}.{value.__qualname__}"
    else:
        yield from _pickled(value, path)


@parts.register
def _(value: functools.partial, path: str) -> Parts:
    yield value.func, path
    yield value.args, path
    yield from named(value.keywords, path)
    yield from named(vars(value), path)


@parts.register(types.GetSetDescriptorType)
@parts.register(types.MemberDescriptorType)
@parts.register(types.MethodDescriptorType)
@parts.register(types.WrapperDescriptorType)
@parts.register(types.ClassMethodDescriptorType)
def _(value: object, path: str) -> Parts:
    yield value.__qualname__


@parts.register(_CACHED)
@parts.register(types.MethodType)
@parts.register(staticmethod)
@parts.register(classmethod)
@parts.register(property)
@parts.register(functools.cached_property)
def _(value: object, path: str) -> Parts:
    for name in ("__wrapped__", "__func__", "__self__", "fget", "fset", "func"):
        yield getattr(value, name, None), path


@parts.register
def _(value: type, path: str) -> Parts:
    """A library's class by its name, any other by its bases, methods and attributes."""
    if source.library_class(value):
        yield f"{value.__module__}.{value.__qualname__}"
        return
    yield value.__qualname__
    yield value.__bases__, path
    code = (types.FunctionType, staticmethod, classmethod, property)
    for name, member in sorted(vars(value).items()):
        if isinstance(member, code) or not (name.startswith("__") or name == "_abc_impl"):
            yield name
            yield member, f"{path}.{name}"


@parts.register
def _(value: types.ModuleType, path: str) -> Parts:
    """A library's module by its name, a user's by its text and that of the user's modules in it."""
    if source.library(value.__name__):
        yield value.__name__
        return
    try:
        yield source.bare(inspect.getsource(value))
    except (OSError, TypeError, SyntaxError):
        yield value.__name__
    for name, member in sorted(vars(value).items()):
        home = sys.modules.get(getattr(member, "__module__", None) or "")
        used = member if isinstance(member, types.ModuleType) else home
        if used not in (None, value) and not source.library(used.__name__):
            yield name
            yield used, f"{path}.{name}"
