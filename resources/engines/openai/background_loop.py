"""A coroutine in a thread of its own, whose findings a plain generator hands on as they come.

The consumer may take its time over a group (writing it to disk): the coroutine goes on meanwhile. Hand-written: the
standard library has threads, queues and event loops, and nothing that ends all three when a generator is closed.
"""

import asyncio
import queue
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Generic, TypeVar

Item = TypeVar("Item")
Emit = Callable[[Item], None]
"""Takes what the coroutine found; never waits."""


@dataclass(frozen=True)
class _End:
    """The last thing in the queue."""

    error: BaseException | None
    """What ended the coroutine, None where it ran through."""


class BackgroundRun(Generic[Item]):
    """One coroutine under way in its thread, from `__init__` until it ends or `stop` is called."""

    def __init__(self, produce: Callable[[Emit[Item]], Coroutine[None, None, None]], *, name: str) -> None:
        """Start it.

        Args:
            produce: makes the coroutine, given what takes its findings.
            name: of the thread.
        """
        self._items: queue.SimpleQueue[Item | _End] = queue.SimpleQueue()
        self._produce = produce
        # Made here, so that `stop` has a loop to speak to from the first moment; it is not this thread's own loop.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        self._loop = self._runner.get_loop()
        self._task: asyncio.Task[None] | None = None
        self._is_stopped = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def iterate(self) -> Iterator[list[Item]]:
        """What was found since the last group, as soon as there is anything; leaves no thread, however it ends.

        Raises:
            BaseException: what ended the coroutine, after everything it found; CancelledError after `stop`.
        """
        try:
            while True:
                found: list[Item] = []
                end = self._take(self._items.get(), found)
                while end is None and not self._items.empty():
                    end = self._take(self._items.get(), found)
                if found:
                    yield found
                if end is not None:
                    if end.error is not None:
                        raise end.error
                    return
        finally:
            self.stop()

    def stop(self) -> None:
        """Cancel what is under way and wait for the thread to end; can be called again."""
        with suppress(RuntimeError):  # the loop is closed where the coroutine has ended by itself
            self._loop.call_soon_threadsafe(self._cancel)
        self._thread.join()

    @staticmethod
    def _take(item: "Item | _End", found: list[Item]) -> _End | None:
        if isinstance(item, _End):
            return item
        found.append(item)
        return None

    def _cancel(self) -> None:
        self._is_stopped = True
        if self._task is not None:
            self._task.cancel()

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            with self._runner:
                self._runner.run(self._produce_unless_stopped())
        except BaseException as raised:  # handed to the consumer, who raises it
            error = raised
        self._items.put(_End(error))

    async def _produce_unless_stopped(self) -> None:
        self._task = asyncio.current_task()
        if self._is_stopped:
            raise asyncio.CancelledError
        await self._produce(self._items.put)
