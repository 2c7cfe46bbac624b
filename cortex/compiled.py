"""A model compiled for this machine: linearize, one native call, the states of the roots."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from common import extras
from cortex import codegen_c, ra, tables
from cortex import weights as weights_of
from cortex.errors import BackendError, ModelError, StructureError, TokenError
from cortex.kernel import Kernel
from cortex.linearize import Linear, Tokens, linearize
from cortex.result import Result as Result

if TYPE_CHECKING:
    import torch

    from cortex.recursive import Recursive

Backend: TypeAlias = Literal["c", "interp"]
Keep: TypeAlias = Literal["root", "all"]
Floats: TypeAlias = npt.NDArray[np.float32]


class Compiled:
    """A model with its weights; call it with structures. Made by `compile`.

    Calls from several threads at once are safe: each has a workspace of its own.
    """

    def __init__(
        self,
        model: ra.Model,
        lowered: Any,
        params: dict[str, Floats],
        *,
        backend: Backend,
        threads: int,
        outputs: tuple[str, ...],
        keep: Keep,
        schedule: object = None,
    ) -> None:
        # Before any OpenMP code of ours, so that there is one runtime.
        self._torch = extras.require("torch", "cortex", "compiled models")
        self.ra = model
        self.lowered = lowered
        self.backend = backend
        self.threads = threads
        self.outputs = outputs
        self.keep = keep
        self.schedule = schedule
        self._options = dict(lowered.linear_options)
        self._tokens: Tokens = (
            "all" if model.node_uses_token else "leaf" if model.leaf_uses_token else "none"
        )
        is_kept = keep == "all"
        self._generated = codegen_c.generate(
            lowered.program, outputs, keep_all=is_kept, each_level=lowered.each_level
        )
        self._sizes = [
            (name, model.states[name], math.prod(model.states[name])) for name in outputs
        ]
        self._width = sum(size for _, _, size in self._sizes)
        self._kernel = Kernel(self._generated, threads, model.name) if backend == "c" else None
        self._arrays: dict[str, Floats] = {}
        self._set(params)

    # ---- Stages ----

    @property
    def ilir(self) -> Any:
        """The lowered program."""
        return self.lowered.program

    @property
    def source(self) -> str:
        """The generated C++."""
        return self._generated.text

    def explain(self) -> str:
        """What was compiled, stage by stage, and which primitives were refused and why."""
        kernel = self._kernel
        lines = [
            f"{self.ra.name}: backend {self.backend}, up to {self.threads} threads",
            f"  schedule {self.schedule}",
        ]
        if kernel is not None:
            lines += [
                f"  {self._generated.products} nests of products, "
                f"{kernel.weight_bytes / 2**20:.2f} MiB of weights in memory",
                f"  one thread below {kernel.alone} inner nodes",
            ]
            lines += self._persistence(kernel)
        lines += [f"  stage {name}" for name, _ in self.lowered.stages]
        lines += [f"  table {name}" for name, *_ in self.lowered.tables]
        lines += [f"  refused {name}: {reason}" for name, reason in self.lowered.refused]
        return "\n".join(lines)

    def _persistence(self, kernel: Kernel) -> list[str]:
        refused = dict(self.lowered.refused)
        if not getattr(self.schedule, "persistent", False) or "persist" in refused:
            return []
        each = kernel.weight_bytes / self.threads / 2**20
        return [
            f"  persist: each of {self.threads} threads keeps its columns, about {each:.2f} MiB "
            "of weights, in its core's cache"
        ]

    # ---- Weights ----

    def update(self, weights: object) -> None:
        """Take other weights of the same shapes: packs and tabulates, compiles nothing."""
        self._set(weights_of.load(self.ra, weights))

    def _set(self, params: dict[str, Floats]) -> None:
        arrays = {**params, **tables.build(self.lowered.tables, params)}
        if self._kernel is not None:
            self._kernel.pack(arrays)
        self._arrays = arrays

    # ---- Calls ----

    def __call__(self, data: object) -> Result:
        """Linearize and run: one structure or a list of them."""
        return self.run(self.linearize(data))

    def linearize(self, data: object) -> Linear:
        """Number the nodes of structures. Shares nothing with data, which may change later."""
        linear = linearize(
            data,
            self.ra.structure,
            tokens=self._tokens,
            vocab=self.ra.vocab,
            feature_width=self.ra.feature_width,
            **self._options,
        )
        # What has been checked here need not be looked at by `run`.
        linear.__dict__["_checked_for"] = self
        return linear

    def run(self, linear: Linear) -> Result:
        """Compute the states of a linearized structure."""
        if linear.__dict__.get("_checked_for") is not self:
            self._check(linear)
        kernel = self._kernel
        if kernel is None:
            return self._interpret(linear)
        torch = self._torch
        n_roots, n_nodes = len(linear.roots), linear.n_nodes
        out = torch.empty(n_roots * self._width)
        is_kept = self.keep == "all"
        kept = torch.empty(n_nodes * self._width) if is_kept else None
        used = 0
        if n_nodes:
            address = 0 if kept is None else kept.data_ptr()
            used = kernel.run(linear, out.data_ptr(), address)
        if kept is None:
            return Result(self._split(out, n_roots), used, linear, None)
        raw = self._split(kept, n_nodes)
        roots = torch.from_numpy(linear.roots.astype(np.int64))
        return Result({n: t[roots] for n, t in raw.items()}, used, linear, raw)

    def _split(self, flat: torch.Tensor, rows: int) -> dict[str, torch.Tensor]:
        """One output after another, as they lie in memory."""
        if len(self._sizes) == 1:
            name, shape, _ = self._sizes[0]
            return {name: flat.view(rows, *shape)}
        found, at = {}, 0
        for name, shape, size in self._sizes:
            found[name] = flat[at : at + rows * size].view(rows, *shape)
            at += rows * size
        return found

    def _check(self, linear: Linear) -> None:
        """Raise unless this model can read a structure that another numbered."""
        arity = self.ra.structure.max_children
        found = None if linear.child is None else len(linear.child)
        if found != arity:
            raise StructureError(
                f"{self.ra.name} reads nodes with {arity or 'any number of'} children, got a "
                f"structure numbered for {found or 'any number'}; number it with net.linearize"
            )
        if self._options.get("kinds") and linear.kind_ptr is None:
            raise StructureError(
                f"{self.ra.name} was compiled for nodes grouped by kind, got a structure without "
                "kinds; number it with net.linearize"
            )
        if self.ra.vocab is not None and self._tokens != "none":
            read = linear.token[: linear.n_leaves] if self._tokens == "leaf" else linear.token
            bad = np.flatnonzero((read < 0) | (read >= self.ra.vocab))
            if bad.size:
                raise TokenError(
                    f"tokens of {self.ra.name} must lie in 0 .. {self.ra.vocab - 1}, got "
                    f"{read[bad[0]]} at node {linear.order[bad[0]]}"
                )
        width = self.ra.feature_width
        if width is not None and (linear.features is None or linear.features.shape[1] != width):
            got = "none" if linear.features is None else str(linear.features.shape[1])
            raise StructureError(f"{self.ra.name} reads {width} features a node, got {got}")

    def _interpret(self, linear: Linear) -> Result:
        from cortex import interpreter

        found = interpreter.run(self.lowered.program, linear, self._arrays)
        torch = self._torch
        raw = {name: torch.from_numpy(np.asarray(found[name], np.float32)) for name in self.outputs}
        roots = torch.from_numpy(linear.roots.astype(np.int64))
        is_kept = self.keep == "all"
        return Result({n: t[roots] for n, t in raw.items()}, 0, linear, raw if is_kept else None)


def compile(
    model: Recursive | ra.Model,
    weights: object = None,
    *,
    backend: Backend = "c",
    schedule: Any = "auto",
    precision: Literal["fp32"] = "fp32",
    threads: int | None = None,
    outputs: Sequence[str] | None = None,
    keep: Keep = "root",
) -> Compiled:
    """Compile a recursive model for this machine.

    weights:  name -> array or tensor, an nn.Module with an import map, or None for seeded ones
    backend:  "c", or "interp" for the plain interpreter of the lowered program
    schedule: a Schedule, "auto" for fixed rules, or "none"
    threads:  the most a call uses; by default as many as torch does. Small calls use one
    outputs:  states returned for the roots; by default all
    keep:     "all" to read the states of every node from the result

    Raises WeightError, ModelError, ScheduleError, and BackendError if the back end cannot run.
    """
    if backend not in ("c", "interp"):
        raise BackendError(f"backend must be 'c' or 'interp', got {backend!r}")
    if precision != "fp32":
        raise BackendError(f"precision must be 'fp32', got {precision!r}")
    if keep not in ("root", "all"):
        raise ValueError(f"keep must be 'root' or 'all', got {keep!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, got {threads}")
    from cortex.lower import lower
    from cortex.schedule import Schedule

    traced = model if isinstance(model, ra.Model) else ra.trace(model)
    wanted = tuple(traced.states) if outputs is None else tuple(outputs)
    if unknown := [name for name in wanted if name not in traced.states]:
        raise ModelError(
            f"outputs must be states of {traced.name} ({', '.join(traced.states)}), "
            f"got {', '.join(unknown)}"
        )
    if schedule == "auto":
        schedule = Schedule.auto(traced)
    elif schedule == "none":
        schedule = Schedule.none()
    if threads is None:
        threads = extras.require("torch", "cortex", "compiled models").get_num_threads()
    return Compiled(
        traced,
        lower(traced, schedule, threads=threads),
        weights_of.load(traced, weights),
        backend=backend,
        threads=threads,
        outputs=wanted,
        keep=keep,
        schedule=schedule,
    )
