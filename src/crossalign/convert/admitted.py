"""The names that a published pickle may ask for, each with something harmless in its place."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = [
    "ADMITTED",
    "CONTAINERS",
    "Attributes",
    "DamagedError",
    "Maker",
    "ObjectArray",
    "ObjectType",
    "PlainDict",
    "RefusedError",
    "Storage",
    "StorageType",
    "admitted_objects",
    "why_refused",
]


class RefusedError(Exception):
    """What a pickle wants and is not given; the message says what and why."""


class DamagedError(Exception):
    """What in a file cannot be; the message says what."""


class Attributes:
    """An object of a known harmless class, reduced to its attributes."""

    __slots__ = ("values",)

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}

    def __setstate__(self, state: Any) -> None:
        if not isinstance(state, dict) or not all(isinstance(key, str) for key in state):
            raise DamagedError("attributes without names")
        self.values = state


class PlainDict(dict):
    """An ordered dictionary; torch hangs attributes on it, which are dropped."""

    def __setstate__(self, state: Any) -> None:
        pass


CONTAINERS: tuple[type, ...] = (list, tuple, dict, PlainDict, set, frozenset)


@dataclass(frozen=True)
class Maker:
    """A function that a pickle may call; frozen, and of a type of its own, so that nothing else is called."""

    make: Callable[..., Any]


@dataclass(frozen=True)
class StorageType:
    """The type of a torch storage; only a persistent id may name one."""

    dtype: torch.dtype


@dataclass(frozen=True)
class Storage:
    """The numbers behind tensors, and the bytes they are filled from."""

    values: Tensor
    buffer: bytearray

    @classmethod
    def empty(cls, numbers: int, dtype: torch.dtype) -> Storage:
        """Zeros."""
        buffer = bytearray(numbers * dtype.itemsize)
        values = torch.frombuffer(buffer, dtype=dtype) if numbers else torch.empty(0, dtype=dtype)
        return cls(values, buffer)


class DataType:
    """A NumPy type of numbers or texts; never one of objects."""

    __slots__ = ("order", "text")
    PATTERN = re.compile(r"([<>|=]?)(b1|[iu][1248]|f[248]|c8|c16|[SU][1-9]\d{0,5})")

    def __init__(self, text: Any, *_: Any) -> None:
        found = self.PATTERN.fullmatch(text) if isinstance(text, str) else None
        if found is None:
            raise RefusedError(f"an array of type {text!r}, which is neither numbers nor text")
        self.order, self.text = found.group(1) or "=", found.group(2)

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]
        else:
            raise DamagedError("an array type without byte order")

    def dtype(self) -> np.dtype:
        """As NumPy has it."""
        return np.dtype(self.order + self.text)


class Array(np.ndarray):
    """A NumPy array that can only be filled with as many bytes as its shape asks for."""

    def __new__(cls) -> Array:
        return super().__new__(cls, 0)

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, by_columns, raw = state
        # NumPy checks neither.
        _check_bytes(shape, kind, raw)
        super().__setstate__((1, shape, kind.dtype(), bool(by_columns), _bytes(raw)))  # type: ignore[arg-type]


def _bytes(raw: Any) -> bytes:
    """Python 2 kept bytes in its strings, which are read as Latin 1."""
    return raw.encode("latin1") if isinstance(raw, str) else bytes(raw)


def _check_bytes(shape: Any, kind: Any, raw: Any) -> None:
    if not isinstance(shape, tuple) or not all(isinstance(side, int) and side >= 0 for side in shape):
        raise DamagedError("an array of no shape")
    if not isinstance(kind, DataType):
        raise RefusedError("an array of objects")
    if not isinstance(raw, bytes | bytearray | str) or len(raw) != math.prod(shape) * kind.dtype().itemsize:
        raise DamagedError("an array whose bytes do not fill its shape")


def _array(kind: Any, *_: Any) -> Array:
    if kind is not Array:
        raise RefusedError("an array of another class")
    return Array()


def _array_of_buffer(raw: Any, kind: Any, shape: Any, order: Any) -> np.ndarray:
    _check_bytes(shape, kind, raw)
    return np.frombuffer(_bytes(raw), kind.dtype()).reshape(shape, order=order)


def _number(kind: Any, raw: Any) -> Any:
    _check_bytes((), kind, raw)
    return np.frombuffer(_bytes(raw), kind.dtype())[0].item()


def _object(kind: Any, base: Any, state: Any) -> Attributes:
    """How protocols before 2 wrote the objects of a class."""
    if kind is not Attributes or base is not object or state is not None:
        raise RefusedError("an object that is more than its attributes")
    return Attributes()


def _encoded(text: Any, encoding: Any) -> bytes:
    """How protocol 2 wrote bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise RefusedError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _tensor(storage: Any, offset: Any, size: Any, stride: Any, *_: Any) -> Tensor:
    """A view of a storage that shows none of its numbers twice: what a file makes is no larger than the file."""
    if not isinstance(storage, Storage):
        raise DamagedError("a tensor without storage")
    size, stride = tuple(size), tuple(stride)
    if len(size) != len(stride) or not all(
        isinstance(number, int) and number >= 0 for number in (offset, *size, *stride)
    ):
        raise DamagedError("a tensor of no shape")
    if 0 in size:
        return torch.empty(size, dtype=storage.values.dtype)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if last >= len(storage.values) or math.prod(size) > len(storage.values) - offset:
        raise DamagedError("a tensor larger than its storage")
    # Of a storage that is a part of another one, the offset counts from where the part begins.
    return storage.values.as_strided(size, stride, storage.values.storage_offset() + offset)


def _container(kind: Callable[..., Any]) -> Callable[..., Any]:
    """Makes one container of another; of anything else, such as a tensor, it could be larger than the file."""

    def make(*items: Any) -> Any:
        if len(items) > 1 or not all(type(item) in CONTAINERS for item in items):
            raise RefusedError("a container of something that is none")
        return kind(*items)

    return make


def _parameter(data: Any, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise DamagedError("a parameter that is no tensor")
    return data


_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
# Options of a training script, and the vocabulary of SCAN's, VSE++'s and their successors' code, which the script
# that made it may have written under its own name.
_OBJECTS = ("argparse.Namespace", "vocab.Vocabulary", "lib.vocab.Vocabulary", "__main__.Vocabulary")

ADMITTED: Mapping[str, Any] = {
    **dict.fromkeys(_OBJECTS, Attributes),
    "collections.OrderedDict": Maker(_container(PlainDict)),
    "_codecs.encode": Maker(_encoded),
    **{
        f"{module}.{name}": Maker(make)
        for module in ("builtins", "__builtin__")
        for name, make in (
            ("set", _container(set)),
            ("frozenset", _container(frozenset)),
            ("list", _container(list)),
            ("dict", _container(PlainDict)),
        )
    },
    **dict.fromkeys(("builtins.object", "__builtin__.object"), object),
    **dict.fromkeys(("copyreg._reconstructor", "copy_reg._reconstructor"), Maker(_object)),
    "numpy.dtype": Maker(DataType),
    "numpy.ndarray": Array,
    **{
        f"numpy.{core}.{name}": Maker(make)
        for core in ("core", "_core")
        for name, make in (
            ("multiarray._reconstruct", _array),
            ("multiarray.scalar", _number),
            ("numeric._frombuffer", _array_of_buffer),
        )
    },
    **{
        f"{module}.{name}": StorageType(dtype)
        for module in ("torch", "torch.cuda")
        for name, dtype in _STORAGES.items()
    },
    "torch._utils._rebuild_tensor": Maker(_tensor),
    "torch._utils._rebuild_tensor_v2": Maker(_tensor),
    "torch._utils._rebuild_parameter": Maker(_parameter),
    "torch.Size": Maker(_container(tuple)),
}


class ObjectType:
    """The NumPy type of objects."""

    def __setstate__(self, state: Any) -> None:
        pass


class ObjectArray:
    """A NumPy array of objects, reduced to its shape and a flat list of them."""

    __slots__ = ("items", "shape")

    def __init__(self) -> None:
        self.items: list[Any] = []
        self.shape: tuple[int, ...] = ()

    def __setstate__(self, state: Any) -> None:
        *_, shape, kind, _, items = state
        if not isinstance(kind, ObjectType) or not isinstance(items, list):
            raise DamagedError("an array of other things than its header tells of")
        if not isinstance(shape, tuple) or len(items) != math.prod(shape):
            raise DamagedError("an array whose objects do not fill its shape")
        self.items, self.shape = items, shape


def admitted_objects() -> Mapping[str, Any]:
    """What the pickle within a ``.npy`` file may ask for: its first array is one of objects, all others are of data."""
    begun = False

    def array(kind: Any, *rest: Any) -> Any:
        nonlocal begun
        if begun or kind is not Array:
            return _array(kind, *rest)
        begun = True
        return ObjectArray()

    def data_type(text: Any, *rest: Any) -> Any:
        return ObjectType() if text in ("O", "O8") else DataType(text, *rest)

    makers = {f"numpy.{core}.multiarray._reconstruct": Maker(array) for core in ("core", "_core")}
    return {**ADMITTED, **makers, "numpy.dtype": Maker(data_type)}


def why_refused(name: str, mend: str | None = None) -> str:
    """What a name that is not admitted stands for, in words.

    Args:
        mend: what to do about it; None: what to do about a checkpoint.
    """
    if name.startswith("torch.nn."):
        return f"'{name}', a part of a whole network; {mend or 'save its state_dict() where it was trained'}"
    advice = mend or "where you trust the file, save its state dicts and options alone"
    return f"'{name}', which is neither tensor nor array nor plain container; {advice}"
