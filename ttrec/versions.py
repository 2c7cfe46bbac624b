"""Check that torch and fbgemm belong together, before either is loaded."""

from importlib import metadata

from common.extras import MissingExtra

#: The tested pair. The fbgemm wheel names no torch version, so pip does not notice a mismatch.
TORCH, FBGEMM = "2.13.0", "1.8.0"
_FBGEMM_DISTRIBUTIONS = ("fbgemm-gpu-cpu", "fbgemm-gpu")


def check_torch_pair() -> None:
    """Raise ImportError unless torch is there and, if fbgemm is too, the two belong together.

    Without torch it is MissingExtra with the pip line.

    Reads the installed versions only; neither package is imported. A torch without fbgemm is fine:
    fbgemm is needed as a peer in measurements, not by the library.
    """
    torch = _found("torch")
    if torch is None:
        raise MissingExtra(
            'torch is needed for TT embeddings: pip install "mlsys21[ttrec]"', name="torch"
        )
    fbgemm_name, fbgemm = next(
        ((n, v) for n in _FBGEMM_DISTRIBUTIONS if (v := _found(n)) is not None), ("", None)
    )
    if fbgemm is not None and (_release(torch), _release(fbgemm)) != (TORCH, FBGEMM):
        raise ImportError(
            f"torch {torch} and {fbgemm_name} {fbgemm} are installed, but torch {TORCH} and "
            f"{fbgemm_name} {FBGEMM} are the pair that works: "
            f'pip install "torch=={TORCH}" "{fbgemm_name}=={FBGEMM}"'
        )


def _found(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _release(version: str) -> str:
    """The version without its local part: 2.13.0+cpu -> 2.13.0."""
    return version.partition("+")[0]
