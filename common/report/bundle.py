"""The Vega-Lite library as one script for the page, made once per version of vl-convert."""

import contextlib
import re
from pathlib import Path

from common import extras, files
from common.cache_folder import cache_folder

_WRAPPED = "(function(){{\n{code}\n}})();\n"


def bundle(folder: Path | None = None) -> str:
    """Return a classic script that defines window.vegaEmbed; safe inside a script element.

    Making it takes seconds, so it is kept in folder (cache_folder() by default); a folder that
    cannot be written costs those seconds again, nothing else. Raises MissingExtra without
    vl-convert, PermissionError for a default folder that others may write to.
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
    with contextlib.suppress(OSError):
        files.write_whole(kept, code)
    return code


def harmless(script: str) -> str:
    """Break what would end or confuse a script element, inside strings and regular expressions."""
    return re.sub(r"<(/script|!--)", r"\\x3c\1", script, flags=re.IGNORECASE)


def _is_whole(code: str) -> bool:
    return code.startswith("(function(){") and code.endswith("})();\n") and "vegaEmbed" in code
