"""A line in which visitors wait: one is served at a time, in the order of arrival."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager


class Queue:
    """Who waits, and how many are ahead of each; for one event loop."""

    def __init__(self, longest: int) -> None:
        """longest: so many are let in, the one being served among them."""
        self.longest = longest
        self._line: list[asyncio.Event] = []

    @property
    def is_full(self) -> bool:
        return len(self._line) >= self.longest

    @contextmanager
    def place(self) -> Iterator[asyncio.Event]:
        """A place at the end of the line, given up at the end of the block."""
        place = asyncio.Event()
        self._line.append(place)
        try:
            yield place
        finally:
            self._line.remove(place)
            for other in self._line:
                other.set()

    async def ahead(self, place: asyncio.Event) -> AsyncIterator[int]:
        """How many are ahead, whenever that changes; ends when it is this one's turn."""
        while True:
            place.clear()  # before looking: what moves while the number is on its way must not be missed
            number = self._line.index(place)
            if not number:
                return
            yield number
            await place.wait()
