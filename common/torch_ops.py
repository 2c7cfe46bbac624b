"""A native function as a torch operator: traced by torch.compile, differentiated by autograd.

Built from torch.library's plain pieces: `define`, `impl`, `register_fake`, `register_autograd`.
The `custom_op` decorator does the same at several times the cost per call. Even so an operator
costs a few microseconds, so register whole layers or batches, never the step of an inner loop.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch

_libraries: dict[str, torch.library.Library] = {}  # an operator lives as long as its library object
_NAME = re.compile(r"(\w+)::(\w+)")


def register(
    name: str,
    schema: str,
    cpu: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup_context: Callable[..., Any] | None = None,
) -> torch._ops.OpOverload:
    """Register an operator for CPU tensors and return it, ready to call.

    name: "<package>::<operator>"
    schema: its arguments and results as torch writes them, "(Tensor x, int n) -> Tensor"
    cpu: computes; may not return an input or a view of one
    fake: returns empty tensors of the result's shape and dtype, looking at shapes only
    backward: (ctx, *grads of the results) -> a gradient or None for each argument
    setup_context: (ctx, inputs, output) saves what backward needs; without it nothing is saved

    Results of an operator without backward carry no gradient. Raises ValueError if the name is
    taken or malformed, if setup_context comes without backward, or if an operator that writes to
    its arguments is to have a backward.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        raise ValueError(f'name must be "<package>::<operator>", got {name!r}')
    if not schema.lstrip().startswith("("):
        raise ValueError(f'schema must start with its arguments, "(Tensor x)", got {schema!r}')
    if setup_context is not None and backward is None:
        raise ValueError(f"{name}: setup_context saves for a backward, but none is given")
    if backward is not None and "!" in schema:
        raise ValueError(f"{name} writes to an argument, which autograd cannot follow: {schema}")
    namespace, operator = found.groups()
    if hasattr(getattr(torch.ops, namespace), operator):
        raise ValueError(f"operator {name} is registered already")
    library = _libraries.get(namespace)
    if library is None:
        # torch.library.Library carries no annotations of its own.
        library = torch.library.Library(namespace, "FRAGMENT")  # type: ignore[no-untyped-call]  # see above
        _libraries[namespace] = library
    tags = (torch.Tag.pt2_compliant_tag,)
    library.define(f"{operator}{schema}", tags=tags)  # type: ignore[no-untyped-call]  # see above
    library.impl(operator, cpu, "CPU")  # type: ignore[no-untyped-call]  # see above
    torch.library.register_fake(name, fake, lib=library)
    if backward is not None:
        torch.library.register_autograd(name, backward, setup_context=setup_context, lib=library)
    registered: torch._ops.OpOverload = getattr(getattr(torch.ops, namespace), operator).default
    return registered
