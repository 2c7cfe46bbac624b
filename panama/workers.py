"""Ranks that train together: processes of this machine, joined by gloo over its loopback."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import traceback
from collections.abc import Callable, Mapping
from multiprocessing import connection, get_context
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

#: What a rank can do: name -> function. Built on each rank by make(rank, ranks, *args).
Duties: TypeAlias = Mapping[str, Callable[..., Any]]

#: Seconds without an answer after which the ranks count as stuck.
_PATIENCE_S = 600.0


class Workers:
    """So many ranks, waiting for what to do; close them, or use them in a `with`.

    ranks: one process each, with one thread each
    make:  a function of a module, make(rank, ranks, *args) -> Duties
    """

    def __init__(self, ranks: int, make: Callable[..., Duties], *args: Any) -> None:
        context = get_context("spawn")
        self._folder = tempfile.TemporaryDirectory(prefix="panama-ranks-")
        self._lines: list[connection.Connection] = []
        self._processes = []
        store = Path(self._folder.name) / "store"
        for rank in range(ranks):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=_serve, args=(theirs, rank, ranks, str(store), make, args), daemon=True
            )
            process.start()
            theirs.close()
            self._lines.append(ours)
            self._processes.append(process)
        try:
            self._answers()
        except BaseException:
            self.close()
            raise

    def call(self, duty: str, *args: Any) -> list[Any]:
        """Have all ranks do this at once; what they returned, by rank.

        Raises RuntimeError with the traceback of the first rank that failed, and ends all, as the
        others may wait for that one.
        """
        try:
            for line in self._lines:
                line.send((duty, args))
            return self._answers()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the ranks at once: they own nothing that must be put in order."""
        for line in self._lines:
            line.close()
        for process in self._processes:
            process.kill()
            process.join()
        self._folder.cleanup()

    def __enter__(self) -> Workers:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _answers(self) -> list[Any]:
        """One answer of each rank; the first failure to come in ends the wait for the others."""
        found: dict[int, Any] = {}
        while len(found) < len(self._lines):
            left = [rank for rank in range(len(self._lines)) if rank not in found]
            ready = connection.wait([self._lines[rank] for rank in left], _PATIENCE_S)
            if not ready:
                raise RuntimeError(f"no answer of ranks {left} in {_PATIENCE_S:.0f} s")
            for rank in left:
                line = self._lines[rank]
                if line not in ready:
                    continue
                try:
                    well, value = line.recv()
                except EOFError:
                    self._processes[rank].join(5)  # the line ends a little before the process
                    code = self._processes[rank].exitcode
                    raise RuntimeError(f"rank {rank} died, exit code {code}") from None
                if not well:
                    raise RuntimeError(f"rank {rank} failed:\n{value}")
                found[rank] = value
        return [found[rank] for rank in range(len(self._lines))]


def _serve(
    line: connection.Connection,
    rank: int,
    ranks: int,
    store: str,
    make: Callable[..., Duties],
    args: tuple[Any, ...],
) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", _loopback())
    try:
        import torch
        import torch.distributed as dist

        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=ranks)
        duties = make(rank, ranks, *args)
        line.send((True, None))
    except BaseException:
        line.send((False, traceback.format_exc()))
        return
    # The end of the line is the end of who started us.
    with contextlib.suppress(EOFError, OSError):
        while True:
            duty, given = line.recv()
            try:
                answer = True, duties[duty](*given)
            except Exception:
                answer = False, traceback.format_exc()
            line.send(answer)


def _loopback() -> str:
    names = [name for _, name in socket.if_nameindex()]
    return next((name for name in ("lo", "lo0") if name in names), names[0])
