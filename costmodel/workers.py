"""One function for many arguments: on processes of this machine, or on a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, TypeVar

import joblib

from common.extras import require

Backend = Literal["joblib", "ray"]
A = TypeVar("A")
R = TypeVar("R")


def each(
    function: Callable[[A], R],
    arguments: Sequence[A],
    *,
    jobs: int,
    backend: Backend = "joblib",
) -> list[R]:
    """function(a) for each of the arguments, in their order.

    jobs: at a time; a Ray cluster that is connected already decides for itself
    Raises MissingExtra if Ray is asked for and not installed.
    """
    if backend == "joblib":
        return list(joblib.Parallel(n_jobs=jobs)(joblib.delayed(function)(a) for a in arguments))
    if backend != "ray":
        raise ValueError(f"backend must be joblib or ray, got {backend!r}")
    ray: Any = require("ray", "ray", "generating on a Ray cluster")
    if not ray.is_initialized():
        ray.init(num_cpus=jobs, log_to_driver=False, include_dashboard=False)

    def run(argument: A) -> R:  # ray takes plain functions only, no partial ones
        return function(argument)

    remote = ray.remote(run)
    return list(ray.get([remote.remote(a) for a in arguments]))
