"""Opening and parsing what somebody else may have written: regular files of a stated size, and JSON without surprises.

A reader that goes through here cannot be made to wait on a pipe, to read a device without end, to fill the memory from
a small file, or to fail in Python's own words.
"""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import math
import os
import re
import stat
import types
import typing
from collections.abc import Mapping, Sequence
from typing import IO, Any, BinaryIO, TypeVar, Union, get_args, get_origin

from ..errors import IdentityLockError

MAX_DEPTH = 100
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")  # of a character that JSON writes in two
_Kind = TypeVar("_Kind")


class FileRefused(IdentityLockError):
    """Why a file cannot be used, as half a sentence: the room that asked says which file, and what to do."""


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file opened for reading, which a folder, a pipe or a device is not. A symbolic link is followed.

    Raises FileRefused. Opening never waits.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # some devices do things when they are opened
            raise FileRefused("it is no regular file")
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except (OSError, ValueError) as error:  # ValueError: a name with a zero byte, or that the system cannot encode
        raise FileRefused(_reason(error)) from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise FileRefused("it is no regular file")
    return os.fdopen(handle, "rb")


def open_to_write(path: str | os.PathLike[str]) -> IO[bytes]:
    """A regular file, made where it was missing, open for reading and for writing at its end, unbuffered.

    Raises OSError, also for a link, which would have another file written to, and for what is no file. Opening never
    waits.
    """
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"):
        flags |= getattr(os, name, 0)
    handle = os.open(path, flags, 0o666)
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file")
    return open(handle, "ab+", buffering=0)


def read_regular(path: str | os.PathLike[str], limit: int) -> bytes:
    """The content of a regular file of at most `limit` bytes. Raises FileRefused."""
    with open_regular(path) as file:
        try:
            content = file.read(limit + 1)
        except OSError as error:
            raise FileRefused(_reason(error)) from error
    if len(content) > limit:
        raise FileRefused(f"it is larger than {limit / (1 << 20):g} MiB")
    return content


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)


def parse_json(text: str | bytes, *, finite: bool = True) -> Any:
    """A JSON text as Python values. Raises ValueError with a short reason.

    Refused beside what is no JSON: a key that is there twice, nesting beyond 100 levels, half a surrogate pair (which
    no file, terminal or form can take), text that is not UTF-8, and unless `finite` is False numbers that are none.
    """
    hooks: dict[str, Any] = {"parse_constant": _not_finite, "parse_float": _finite} if finite else {}
    try:
        text = text.decode() if isinstance(text, bytes) else text
        value = json.loads(text, object_pairs_hook=_unique, **hooks)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    except UnicodeDecodeError:
        raise ValueError("it is not text in UTF-8") from None
    if _HALF.search(text) or text.count("[") + text.count("{") > MAX_DEPTH:  # the rest needs no second look
        _require_plain(value)
    return value


def _not_finite(text: str) -> float:
    raise ValueError("a number is not finite")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _require_plain(value: Any) -> None:
    level, depth = [value], 0
    while level:
        if depth > MAX_DEPTH:
            raise ValueError("it is nested too deeply")
        below: list[Any] = []
        for one in level:
            if isinstance(one, dict):
                below.extend(one)
                below.extend(one.values())
            elif isinstance(one, list):
                below.extend(one)
            elif isinstance(one, str) and any("\ud800" <= letter <= "\udfff" for letter in one):
                raise ValueError("a text holds half a character")
        level, depth = below, depth + 1


def from_json(kind: type[_Kind], value: Any) -> _Kind:
    """`value`, as JSON gave it, in the type `kind`: a dataclass, and what its fields name (int, float, bool, str, None,
    unions, tuples, lists and mappings of those, further dataclasses).

    Every field has to be there unless it has a default, no other may be, and an int stands for a float but nothing else
    for something else. Raises ValueError.
    """
    return typing.cast(_Kind, _as(kind, value))


def _as(kind: Any, value: Any) -> Any:
    if kind is Any:
        return value
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type, kind), value)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _union(arguments, value)
    if origin is tuple and isinstance(value, list | tuple):
        if len(arguments) == 2 and arguments[1] is ...:
            return tuple(_as(arguments[0], one) for one in value)
        if len(arguments) == len(value):
            return tuple(_as(inner, one) for inner, one in zip(arguments, value, strict=True))
    elif origin in (list, Sequence) and isinstance(value, list | tuple):
        return [_as(arguments[0], one) for one in value]
    elif origin in (dict, Mapping) and isinstance(value, Mapping):
        return {_as(arguments[0], key): _as(arguments[1], one) for key, one in value.items()}
    elif kind in (int, str, bool) and type(value) is kind:
        return value
    elif kind is float and type(value) in (int, float):
        return _float(value)
    elif kind in (None, types.NoneType) and value is None:
        return None
    raise ValueError(f"{type(value).__name__} is not {getattr(kind, '__name__', kind)}")


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:
        raise ValueError("a number is too large") from None


def _union(kinds: tuple[Any, ...], value: Any) -> Any:
    for kind in kinds:
        try:
            return _as(kind, value)
        except ValueError:
            continue
    raise ValueError(f"{type(value).__name__} is none of the types")


@functools.lru_cache(maxsize=64)
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    """Name -> (type, whether it may be left out)."""
    hints = typing.get_type_hints(kind)
    return {
        field.name: (
            hints[field.name],
            field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING,
        )
        for field in dataclasses.fields(kind)
        if field.init
    }


def _dataclass(kind: type, value: Any) -> Any:
    fields = _fields(kind)
    if not isinstance(value, Mapping) or not value.keys() <= fields.keys():
        raise ValueError(f"this is no {kind.__name__}")
    missing = [name for name, (_, optional) in fields.items() if not optional and name not in value]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    return kind(**{name: _as(fields[name][0], one) for name, one in value.items()})
