"""The Vega-Lite library as one script for the page, made once per version of vl-convert."""

import contextlib
import os
import re
from pathlib import Path

import platformdirs

from common import extras

_WRAPPED = "(function(){{\n{code}\n}})();\n"


def bundle(folder: Path | None = None) -> str:
    """Return a classic script that defines window.vegaEmbed; safe inside a script element.

    Making it takes seconds, so it is kept in folder (the user's cache by default); a folder that
    cannot be written costs those seconds again, nothing else. Raises MissingExtra without
    vl-convert.
    """
    vl_convert = extras.require("vl_convert", "report", "interactive charts")
    folder = cache_folder() if folder is None else folder
    kept = folder / f"vega-bundle-{vl_convert.__version__}.js"
    try:
        code = kept.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        code = ""
    if _is_whole(code):
        return code
    # Its own function: the library's hundreds of one-letter names stay out of the page.
    code = harmless(_WRAPPED.format(code=vl_convert.javascript_bundle()))
    _keep(kept, code)
    return code


def cache_folder() -> Path:
    """Where the script is kept: $MLSYS21_CACHE or the user's cache folder."""
    chosen = os.environ.get("MLSYS21_CACHE")
    if chosen:
        return Path(chosen)
    try:
        folder = Path(platformdirs.user_cache_dir("mlsys21"))
    except RuntimeError:
        folder = Path()
    # A user without a home keeps nothing; older versions give a folder named ~ here.
    return folder if folder.is_absolute() else Path(os.devnull) / "mlsys21"


def harmless(script: str) -> str:
    """Break what would end or confuse a script element, inside strings and regular expressions."""
    return re.sub(r"<(/script|!--)", r"\\x3c\1", script, flags=re.IGNORECASE)


def _is_whole(code: str) -> bool:
    return code.startswith("(function(){") and code.endswith("})();\n") and "vegaEmbed" in code


def _keep(path: Path, code: str) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.write_text(code, encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
