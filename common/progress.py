"""Progress of loops: moving bars in a terminal, a log line per tenth elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import TextIO, TypeVar

T = TypeVar("T")

#: A loop shows on a console that is no terminal once it has lasted this long; short ones would
#: bury the line of their experiment.
LONG_S = 5.0


class ProgressBoard:
    """All running loops of one experiment, nested ones included.

    console: where bars are drawn if it is a terminal
    log:     takes the lines otherwise
    """

    def __init__(
        self,
        console: TextIO,
        log: logging.Logger,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console = console
        self._log = log
        self._clock = clock
        self._bars = _Bars(console) if console.isatty() else None

    def track(self, items: Iterable[T], label: str) -> Iterator[T]:
        """Yield the items; the label and the share done are shown meanwhile."""
        total = len(items) if isinstance(items, Sized) else None
        if self._bars is not None:
            return self._bars.track(items, label, total)
        return self._lines(items, label, total)

    def _lines(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        start = self._clock()
        next_share, next_count = 1, 1
        for done, item in enumerate(items, start=1):
            yield item
            elapsed = self._clock() - start
            if total is None:
                # Without a length tenths are unknown; doubling keeps the lines few.
                if done == next_count:
                    self._say(elapsed, f"{label}: {done} done, {elapsed:.1f} s")
                    next_count *= 2
            elif done * 10 >= next_share * total:
                next_share = done * 10 // total + 1
                share = 100 * done // total
                self._say(elapsed, f"{label}: {share}% ({done} of {total}), {elapsed:.1f} s")

    def _say(self, elapsed: float, text: str) -> None:
        self._log.info("%s", text, extra={"on_console": elapsed >= LONG_S})


class _Bars:
    """Bars of rich on one display; the display is there while any loop runs."""

    def __init__(self, console: TextIO) -> None:
        from rich.console import Console
        from rich.progress import Progress

        self._progress = Progress(console=Console(file=console), transient=True)
        self._running = 0

    def track(self, items: Iterable[T], label: str, total: int | None) -> Iterator[T]:
        if not self._running:
            self._progress.start()
        self._running += 1
        bar = self._progress.add_task(label, total=total)
        try:
            for item in items:
                yield item
                self._progress.advance(bar)
        finally:
            self._progress.remove_task(bar)
            self._running -= 1
            if not self._running:
                self._progress.stop()
