"""Works that start at the same moment, each in a thread of its own."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from perce.errors import AttuneError


def at_once(works: Sequence[Callable[[], object]]) -> list[object]:
    """Run all works in threads that start together; an error of ours is an outcome too."""
    barrier = Barrier(len(works))

    def run(work: Callable[[], object]) -> object:
        barrier.wait()
        try:
            return work()
        except AttuneError as error:
            return error

    with ThreadPoolExecutor(len(works)) as pool:
        return list(pool.map(run, works))
