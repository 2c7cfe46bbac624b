"""A loaded library and its functions."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import cffi

from common.native import cache, call, openmp, prototype
from common.native.call import NativeFunction

_loaded: dict[str, Library] = {}
_loading = threading.Lock()


@attrs.define(eq=False)
class Library:
    """A native library in this process; it is never unloaded.

    name: as given to build
    path: the file in the cache
    sources: the files written by hand it was made of, includes of ours among them
    compile_seconds: time the compiler took, or None if it was found in the cache
    warnings: what the compiler said about the sources
    """

    name: str
    path: Path
    sources: tuple[Path, ...]
    is_openmp: bool
    compile_seconds: float | None
    warnings: str
    _ffi: Any = attrs.field(repr=False)
    _handle: Any = attrs.field(repr=False)
    _functions: dict[Any, NativeFunction] = attrs.field(factory=dict, repr=False)
    _declared: dict[str, Any] = attrs.field(factory=dict, repr=False)

    def function(
        self,
        text: str,
        *,
        dtypes: Mapping[str, str] | None = None,
        strided: Sequence[str] = (),
        optional: Sequence[str] = (),
    ) -> NativeFunction:
        """Make a C function callable from its prototype.

        Pointers take torch tensors or numpy arrays; each is checked for dtype, CPU, contiguity
        and, unless declared const, for being writable and not requiring grad. `.raw` takes
        addresses and numbers and checks nothing. Both release the interpreter lock.

        dtypes: element type where C has only an integer for it: {"w": "bfloat16"} for uint16_t*,
            also "float16" (uint16_t*) and "bool" (uint8_t*)
        strided: pointers exempt from the contiguity check; pass their strides as arguments
        optional: pointers that may be None, NULL in C

        Raises ValueError for a prototype beyond fixed-width numbers and pointers to them, and
        AttributeError if the library exports no such function.
        """
        key = (text, tuple(sorted((dtypes or {}).items())), tuple(strided), tuple(optional))
        known = self._functions.get(key)
        if known is not None:
            return known
        parsed = prototype.parse(text, dtypes, strided, optional)
        self._declare(parsed)
        try:
            symbol = getattr(self._handle, parsed.name)
        except AttributeError:
            raise AttributeError(
                f"{self.name} exports no function {parsed.name!r}: write EXPORT before its "
                f"definition in {', '.join(p.name for p in self.sources) or 'the source'}"
            ) from None
        ran = openmp.ran_parallel_region if self.is_openmp else None
        return self._functions.setdefault(key, call.make(parsed, self._ffi, symbol, ran))

    def _declare(self, parsed: prototype.Prototype) -> None:
        signature = (parsed.result, *((p.ctype, p.is_pointer) for p in parsed.parameters))
        known = self._declared.get(parsed.name)
        if known is None:
            self._ffi.cdef(f"{parsed.text};")
            self._declared[parsed.name] = signature
        elif known != signature:
            raise ValueError(f"{parsed.name} was declared otherwise before, got {parsed}")


def load(
    name: str,
    key: str,
    entry: cache.Entry,
    sources: Sequence[Path],
    *,
    is_openmp: bool,
    compile_seconds: float | None,
) -> Library:
    """Load a verified entry, or return the library of the same key if it is loaded already."""
    with _loading:
        known = _loaded.get(key)
        if known is not None:
            return known
        ffi = cffi.FFI()
        if cache.is_network(entry.library):
            handle = _load_private_copy(ffi, entry.library)
        else:
            handle = ffi.dlopen(str(entry.library))
        if is_openmp:
            openmp.prepare()
        library = Library(
            name,
            entry.library,
            tuple(sources),
            is_openmp,
            compile_seconds,
            entry.facts.get("warnings", ""),
            ffi,
            handle,
        )
        _loaded[key] = library
        return library


def _load_private_copy(ffi: Any, path: Path) -> Any:
    import tempfile

    # A file mapped over the network may be deleted from afar, and touching it then is a SIGBUS.
    with tempfile.NamedTemporaryFile(prefix=path.stem, suffix=".so") as copy:
        with path.open("rb") as source:
            shutil.copyfileobj(source, copy)
        copy.flush()
        return ffi.dlopen(copy.name)  # stays mapped after the file is gone


def loaded(key: str) -> Library | None:
    """The library of this key if this process has loaded it."""
    return _loaded.get(key)


def loaded_sources() -> list[Path]:
    """Every hand-written source and own include of the libraries loaded in this process.

    Generated text is left out: it follows from the Python code and settings that generate it.
    """
    return sorted({path for library in list(_loaded.values()) for path in library.sources})
