"""The process that runs variants: a fresh interpreter with nothing of ours in it.

Started as `python -I -S measure_child.py STATE_FILE` with a request (JSON) on standard input, and
imports nothing beyond the standard library: it is started once or twice for every program.
"""

import ctypes
import json
import mmap
import os
import sys
from pathlib import Path

PR_SET_PDEATHSIG, SIGKILL = 1, 9


def main() -> int:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    request = json.load(sys.stdin)
    os.sched_setaffinity(0, request["cores"])
    if os.geteuid() == 0:  # where it may: others then wait, not this one
        os.nice(-15)
    harness = ctypes.CDLL(request["harness"])
    libraries = {path: ctypes.CDLL(path) for path in {p for p, _ in request["functions"]}}
    n = len(request["functions"])
    functions = (ctypes.c_void_p * n)(
        *(
            ctypes.cast(getattr(libraries[path], symbol), ctypes.c_void_p)
            for path, symbol in request["functions"]
        )
    )
    state = Path(sys.argv[1])
    with state.open("r+b") as file:
        shared = mmap.mmap(file.fileno(), 0)
    base = ctypes.addressof(ctypes.c_char.from_buffer(shared))
    at = {name: ctypes.c_void_p(base + offset) for name, offset in request["offsets"].items()}
    failed: int = harness.measure(
        functions,
        ctypes.c_int64(n),
        at["arrays"],
        ctypes.c_int64(request["n_arrays"]),
        at["config"],
        at["state"],
        at["records"],
        at["samples"],
    )
    if failed:
        print(os.strerror(failed), file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # past the destructors of the libraries: a peer's pool of threads may hang there
