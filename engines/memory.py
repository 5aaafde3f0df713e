"""Running out of memory: how it is told from other errors, and how independent rows go on in smaller parts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

# What torch says where it has no exception for it: its allocators for the CPU (Linux, Windows) and MPS, cuBLAS, and
# oneDNN, which says no more of its scratch memory; so whoever gives up quotes what was said.
_SAID = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "MPS backend out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "could not create a primitive",
)
Row = TypeVar("Row")
Result = TypeVar("Result")


def out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, the device's or the machine's, whoever says it."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(said in str(error) for said in _SAID)


@dataclass(frozen=True)
class RanOut:
    """said: by whatever wanted the memory."""

    said: str


def what_it_said(error: BaseException) -> str:
    """The first line of an error, at the length of a sentence's part."""
    return (str(error) or type(error).__name__).splitlines()[0][:120].rstrip(". ")


def attempt(compute: Callable[[], Result], free_memory: Callable[[], None]) -> Result | RanOut:
    """What `compute` gives; where memory runs out, it is given back by `free_memory`, an engine's."""
    try:
        return compute()
    except Exception as error:
        if not out_of_memory(error):
            raise
        ran_out = RanOut(what_it_said(error))
    free_memory()  # past the except block: only now are the frames gone that held on to what was computed
    return ran_out


def by_rows(
    rows: Sequence[Row],
    size: int,
    compute: Callable[[Sequence[Row]], Result],
    free_memory: Callable[[], None],
) -> tuple[list[Result], int]:
    """`compute` over `size` rows at a time, and over half as many as soon as memory runs out; the size that fitted too.

    Raises MemoryError where memory runs out over a single row.
    """
    results: list[Result] = []
    done = 0
    while done < len(rows):
        part = rows[done : done + size]
        fitted = attempt(lambda part=part: compute(part), free_memory)  # type: ignore[misc]
        if not isinstance(fitted, RanOut):
            results.append(fitted)
            done += len(part)
        elif len(part) > 1:
            size = len(part) // 2
        else:
            raise MemoryError(fitted.said)
    return results, size
