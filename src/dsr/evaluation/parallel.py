"""Work for all cores: NumPy's own functions use one, and only products of large matrices use more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

Item = TypeVar("Item")
Result = TypeVar("Result")


def spread(function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """Results for some items, in their order, with as many threads as products of matrices use here.

    Such a product within ``function`` uses one thread. If the caller stops, what has not been started is left out.
    """
    libraries = ThreadpoolController().select(user_api="blas")
    threads = max((int(library["num_threads"]) for library in libraries.info()), default=1)
    with libraries.limit(limits=1), ThreadPoolExecutor(threads) as pool:
        try:
            yield from pool.map(function, items)
        finally:
            pool.shutdown(cancel_futures=True)


def run(function: Callable[[Item], object], items: Iterable[Item]) -> None:
    """Call a function for some items, which returns nothing that is needed, as :func:`spread` does."""
    for _ in spread(function, items):
        pass


def slices(whole: slice, size: int) -> list[slice]:
    """Parts of at most some size."""
    return [slice(start, min(start + size, whole.stop)) for start in range(whole.start, whole.stop, size)]
