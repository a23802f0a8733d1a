"""Reading the pickles of published code without running anything: checkpoints of every torch, vocabularies."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np

from crossalign.convert.admitted import (
    ADMITTED,
    CONTAINERS,
    Array,
    Attributes,
    DamagedError,
    DataType,
    Maker,
    ObjectArray,
    ObjectType,
    PlainDict,
    RefusedError,
    Storage,
    StorageType,
    admitted_objects,
    why_refused,
)
from crossalign.errors import CrossAlignError

__all__ = ["read_numpy", "read_pickled"]

_COPIED = (*CONTAINERS, str, bytes)
# The first two numbers of what torch.save wrote before it turned to zip files (1.6).
_MAGIC, _PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
# Of the old tar format, in its first header.
_TAR, _TAR_AT = b"ustar", 257

_DATA = """
PROTO STOP FRAME MARK POP POP_MARK DUP NONE NEWTRUE NEWFALSE
INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST
EMPTY_DICT DICT EMPTY_SET FROZENSET
PUT BINPUT LONG_BINPUT MEMOIZE GET BINGET LONG_BINGET
STACK_GLOBAL BINPERSID
"""
_OTHERS = "EXT1 EXT2 EXT4 OBJ NEWOBJ_EX PERSID NEXT_BUFFER READONLY_BUFFER"


def _codes(names: str) -> dict[int, str]:
    return {getattr(pickle, name)[0]: name for name in names.split()}


class _Opcodes(dict[int, Callable[[Any], None]]):
    def __missing__(self, code: int) -> Callable[[Any], None]:
        name = _codes(_OTHERS).get(code)
        if name is None:
            raise DamagedError(f"byte {code:#04x} stands where none may stand")
        raise RefusedError(f"the opcode {name}, which no data needs")


_VECTORS_ALONE = (
    "where you trust the file, save ids and vectors alone: an array with numpy.save, the ids in a text file"
)


class _Reader(pickle._Unpickler):
    """A pickle machine that knows the opcodes of data, and calls and changes nothing but what is admitted.

    In Python's own form, not in C: its memo is a dictionary, so that no number in a file makes it large.

    Args:
        size: of the file in bytes; what it makes is not larger by much.
        storages: those of its tensors; None: it may have none.
    """

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = _Opcodes(
        {code: pickle._Unpickler.dispatch[code] for code in _codes(_DATA)}
    )
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]
    readline: Callable[[], bytes]

    def __init__(
        self,
        file: IO[bytes],
        size: int,
        storages: dict[str, Storage] | None = None,
        admitted: Mapping[str, Any] = ADMITTED,
        mend: str | None = None,
    ) -> None:
        super().__init__(file, encoding="latin1")
        self.storages = {} if storages is None else storages
        # A file of plain data has no storages.
        self.limit = 0 if storages is None else size
        self.copies = size
        self.admitted = admitted
        self.mend = mend

    def find_class(self, module: str, name: str) -> Any:
        found = self.admitted.get(f"{module}.{name}")
        if found is None:
            raise RefusedError(why_refused(f"{module}.{name}", self.mend))
        return found

    def persistent_load(self, reference: Any) -> Storage:
        if not isinstance(reference, tuple) or reference[0] != "storage":
            raise RefusedError("the source code of a network; save its state_dict() where it was trained")
        _, kind, key, _, numbers, *view = reference
        if not isinstance(kind, StorageType) or not isinstance(numbers, int):
            raise DamagedError("a storage of no type")
        if key not in self.storages:
            self.limit -= numbers * kind.dtype.itemsize
            if numbers < 0 or self.limit < 0:
                raise DamagedError("more numbers than the file holds")
            self.storages[key] = Storage.empty(numbers, kind.dtype)
        storage = self.storages[key]
        if view and view[0] is not None:
            _, offset, length = view[0]
            whole = len(storage.values)
            if not all(isinstance(number, int) and 0 <= number <= whole for number in (offset, length)):
                raise DamagedError("a part of a storage that it does not have")
            return Storage(storage.values.narrow(0, offset, length), storage.buffer)
        return storage

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        maker = self.stack[-1]
        if not isinstance(maker, Maker):
            raise RefusedError("a call of something that is no function")
        # Every copy has to be paid for by bytes of the file, or few of them could make much of what is remembered.
        self.copies -= sum(len(part) for part in arguments if type(part) in _COPIED)
        if self.copies < 0:
            raise DamagedError("more copies than the file is long")
        self.stack[-1] = maker.make(*arguments)

    def _last(self, *kinds: type) -> Any:
        """The container that something is put into; what else has such methods is not changed by a file."""
        if type(self.stack[-1]) not in kinds:
            raise RefusedError(f"a change inside a {type(self.stack[-1]).__name__}")
        return self.stack[-1]

    def load_append(self) -> None:
        value = self.stack.pop()
        self._last(list).append(value)

    def load_appends(self) -> None:
        values = self.pop_mark()
        self._last(list).extend(values)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._last(dict, PlainDict)[key] = value

    def load_setitems(self) -> None:
        items = self.pop_mark()
        self._last(dict, PlainDict).update(zip(items[::2], items[1::2], strict=True))

    def load_additems(self) -> None:
        values = self.pop_mark()
        self._last(set).update(values)

    def load_newobj(self) -> None:
        arguments = self.stack.pop()
        if self.stack[-1] is not Attributes or arguments != ():
            raise RefusedError("an object that is more than its attributes")
        self.stack[-1] = Attributes()

    def load_build(self) -> None:
        state = self.stack.pop()
        changed = self.stack[-1]
        if not isinstance(changed, Attributes | PlainDict | DataType | Array | ObjectType | ObjectArray):
            raise RefusedError(f"a change inside a {type(changed).__name__}")
        changed.__setstate__(state)

    def _line(self) -> str:
        line = self.readline()
        if not line.endswith(b"\n"):
            raise DamagedError("it ends early")
        return line[:-1].decode("latin1")

    def load_global(self) -> None:
        self.append(self.find_class(self._line(), self._line()))

    def load_inst(self) -> None:
        module, name = self._line(), self._line()
        self.find_class(module, name)
        raise RefusedError(f"an object of '{module}.{name}' in the form of old classes")

    def load_bytearray(self) -> None:
        length = int.from_bytes(self.read(8), "little")
        # Python's own makes room for the length that the file tells before it looks how much there is.
        found = bytearray(self.read(length))
        if len(found) != length:
            raise DamagedError("it ends early")
        self.append(found)

    dispatch[pickle.APPEND[0]] = load_append
    dispatch[pickle.APPENDS[0]] = load_appends
    dispatch[pickle.SETITEM[0]] = load_setitem
    dispatch[pickle.SETITEMS[0]] = load_setitems
    dispatch[pickle.ADDITEMS[0]] = load_additems
    dispatch[pickle.REDUCE[0]] = load_reduce
    dispatch[pickle.NEWOBJ[0]] = load_newobj
    dispatch[pickle.BUILD[0]] = load_build
    dispatch[pickle.GLOBAL[0]] = load_global
    dispatch[pickle.INST[0]] = load_inst
    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray


def read_pickled(path: str | Path) -> Any:
    """The content of a checkpoint of torch, or of a plain pickle, also of Python 2.

    Only data is read: tensors (on the CPU, wherever they were), NumPy arrays and numbers, texts, dictionaries, lists,
    tuples and sets, and the attributes (:class:`~crossalign.convert.admitted.Attributes`) of ``argparse.Namespace``
    and of the published ``Vocabulary`` class. Nothing in the file is run.

    Raises:
        CrossAlignError: no such file, it is damaged or of another format, or it asks for anything else, which is named.
    """
    return _guarded(Path(path), _read, "no file of torch.save or pickle")


def read_numpy(path: str | Path) -> Any:
    """The content of a ``.npy`` file: an array, or what NumPy pickled into it, read as :func:`read_pickled` does.

    Numbers and texts are mapped into memory, not loaded. An array of objects comes as a list of them, and without axes
    (NumPy's way of saving a dictionary) as the object itself.

    Raises:
        CrossAlignError: no such file, it is damaged or no ``.npy`` file, or it asks for anything but data.
    """

    def read(file: IO[bytes], size: int) -> Any:
        version = np.lib.format.read_magic(file)
        header = (
            np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        )
        shape, _, kind = header(file)
        if not kind.hasobject:
            return np.load(Path(path), mmap_mode="r", allow_pickle=False)
        held = _Reader(file, size, None, admitted_objects(), _VECTORS_ALONE).load()
        if not isinstance(held, ObjectArray) or held.shape != shape:
            raise DamagedError("what is pickled is not the array that its header tells of")
        return held.items if shape else held.items[0]

    return _guarded(Path(path), read, "no file of numpy.save")


def _guarded(path: Path, read: Callable[[IO[bytes], int], Any], kind: str) -> Any:
    """What ``read`` makes of a file and its size; every trouble in one line."""
    try:
        with path.open("rb") as file:
            return read(file, path.stat().st_size)
    except FileNotFoundError:
        raise CrossAlignError(f"{path}: no such file") from None
    except IsADirectoryError:
        raise CrossAlignError(f"{path}: a folder; give the file in it") from None
    except RefusedError as error:
        raise CrossAlignError(f"{path}: refused, it asks for {' '.join(str(error).split())}") from None
    except PermissionError:
        raise CrossAlignError(f"{path}: may not be read; change its permissions") from None
    except Exception as error:  # damaged bytes raise nearly anything
        raise CrossAlignError(f"{path}: damaged, or {kind} ({_reason(error)}); fetch it again") from None


def _reason(error: Exception) -> str:
    """What is wrong with a file, in words about the file: Python's own are about its pickle machine."""
    if isinstance(error, DamagedError):
        return " ".join(str(error).split())
    if isinstance(error, EOFError):
        return "it ends early"
    if isinstance(error, zipfile.BadZipFile):
        return "a zip file of which a part is missing or was changed"
    return "its bytes do not make sense"


def _read(file: IO[bytes], size: int) -> Any:
    head = file.read(_TAR_AT + len(_TAR))
    file.seek(0)
    if not head:
        raise DamagedError("the file is empty")
    if head.startswith(b"PK"):
        return _read_zip(file, size)
    if head[_TAR_AT:] == _TAR:
        raise RefusedError("the tar format that torch left in 2017; save it again with a later torch")
    first = _Reader(file, size).load()
    if isinstance(first, int) and first == _MAGIC:
        return _read_stream(file, size)
    return first


def _read_stream(file: IO[bytes], size: int) -> Any:
    """After the magic number: protocol, machine, content, keys of the storages, then their numbers."""
    if _Reader(file, size).load() != _PROTOCOL:
        raise DamagedError("of an unknown version")
    machine = _Reader(file, size).load()
    if machine.get("little_endian") is not True:
        raise RefusedError("the byte order of another kind of machine")
    storages: dict[str, Storage] = {}
    content = _Reader(file, size, storages).load()
    keys = _Reader(file, size).load()
    if not isinstance(keys, list) or set(keys) != storages.keys():
        raise DamagedError("its list of storages is not that of its tensors")
    for key in keys:
        storage = storages[key]
        if file.read(8) != len(storage.values).to_bytes(8, "little"):
            raise DamagedError("it ends early, or a storage is not as long as its tensors say")
        if _fill(file, storage.buffer) != len(storage.buffer):
            raise DamagedError("it ends early")
    return content


def _fill(file: IO[bytes], buffer: bytearray) -> int:
    filled = 0
    with memoryview(buffer) as view:
        while filled < len(view) and (read := file.readinto(view[filled:])):  # type: ignore[attr-defined]
            filled += read
    return filled


def _read_zip(file: IO[bytes], size: int) -> Any:
    with zipfile.ZipFile(file) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        found = [name for name in entries if name.rpartition("/")[2] == "data.pkl"]
        if len(found) != 1:
            raise DamagedError("a zip file, but not of torch.save")
        folder = found[0].removesuffix("data.pkl")
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries.values()):
            raise DamagedError("its parts are compressed, which torch.save never does")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise RefusedError("the byte order of another kind of machine")
        storages: dict[str, Storage] = {}
        content = _Reader(io.BytesIO(archive.read(found[0])), size, storages).load()
        for key, storage in storages.items():
            with archive.open(f"{folder}data/{key}") as part:
                if _fill(part, storage.buffer) != len(storage.buffer):
                    raise DamagedError("it ends early")
                # Reading up to the end checks the sum.
                if part.read(1):
                    raise DamagedError("a storage is longer than its tensors say")
        return content
