"""Weights for a traced model: from a dict, from a torch module, or seeded. Loads no torch."""

import ast
import math
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import attrs
import numpy as np
import numpy.typing as npt

from cortex.errors import WeightError
from cortex.ra import Model

Weights: TypeAlias = npt.NDArray[np.float32]


@attrs.frozen
class Mapped:
    """A torch module, or its state dict, and where each parameter stands in it.

    names: parameter -> an expression of the module's names, as "cell.iou.weight.T": .T transposes,
           [a:b] slices, + adds, and a name followed by ? is zero where it is absent
    """

    module: Any
    names: Mapping[str, str]


def load(
    model: Model, weights: object = None, *, strict: bool = False, seed: int = 0
) -> dict[str, Weights]:
    """Copies of all parameters, contiguous float32 in main memory, in order of declaration.

    weights: name -> array or tensor; a torch module of a class the model has an import map for, or
             whose own names are the model's; Mapped(module, names), or (module, names); None for
             seeded numbers, uniform and scaled by the size of the input
    strict:  refuse numbers that are not finite, rather than warn

    Raises WeightError naming every parameter that is missing, unknown or of the wrong shape.
    """
    if weights is None:
        return seeded(model, seed)
    given = _as_dict(model, weights)
    problems = []
    missing = [name for name in model.params if name not in given]
    extra = [name for name in given if name not in model.params]
    if missing:
        problems.append(f"missing {', '.join(missing)}")
    if extra:
        problems.append(f"unknown {', '.join(map(str, extra))}")
    found: dict[str, Weights] = {}
    unfit: list[str] = []
    for name, shape in model.params.items():
        if name not in given:
            continue
        try:
            array = as_array(given[name])
        except (TypeError, ValueError, RuntimeError) as error:
            problems.append(f"{name} is no array of numbers ({error})")
            continue
        if array.shape != shape:
            problems.append(f"{name} must be {list(shape)}, got {list(array.shape)}")
            continue
        if not np.isfinite(array).all():
            unfit.append(name)
        found[name] = array
    if unfit and strict:
        problems.append(f"not finite: {', '.join(unfit)}")
    if problems:
        raise WeightError(
            f"weights do not fit {model.name}: {'; '.join(problems)} "
            f"(wanted {', '.join(f'{n} {list(s)}' for n, s in model.params.items())})"
        )
    if unfit:
        warnings.warn(
            f"weights of {model.name} are not finite: {', '.join(unfit)}",
            RuntimeWarning,
            stacklevel=2,
        )
    return found


def seeded(model: Model, seed: int = 0) -> dict[str, Weights]:
    """Uniform numbers in +-1/sqrt(k), k the rows of a weight; a table's rows in +-1.

    A parameter's numbers depend on the seed, its name and its shape alone.
    """
    tables = _tables(model)
    found: dict[str, Weights] = {}
    for name, shape in model.params.items():
        rng = np.random.default_rng([seed, *name.encode()])
        fan = shape[-1] if name in tables and len(shape) == 3 else shape[0]
        scale = 1.0 if name in tables and len(shape) < 3 else 1 / math.sqrt(fan)
        drawn = rng.random(shape, dtype=np.float32)
        drawn *= np.float32(2 * scale)
        drawn -= np.float32(scale)
        found[name] = drawn
    return found


def as_array(value: object) -> Weights:
    """A contiguous float32 copy of an array or tensor, from whatever device."""
    detach: Callable[[], Any] | None = getattr(value, "detach", None)
    if detach is not None:
        value = detach().cpu().float().numpy()
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise TypeError(f"numbers wanted, got {array.dtype}")
    return np.array(array, dtype=np.float32, order="C", copy=True)


def _tables(model: Model) -> set[str]:
    from cortex import ra

    exprs = ra.walk([*model.leaf.values(), *model.node.values()])
    return {x.param.name for x in exprs if isinstance(x, ra.Lookup)}


def _as_dict(model: Model, weights: object) -> Mapping[str, Any]:
    if isinstance(weights, Mapping):
        return weights
    if isinstance(weights, tuple) and len(weights) == 2:
        weights = Mapped(*weights)
    if isinstance(weights, Mapped):
        return _mapped(model, _state(weights.module), weights.names, exact=True)
    if not hasattr(weights, "state_dict"):
        raise WeightError(
            "weights must be a dict of arrays, a torch module, a pair (module, names) or None, "
            f"got {type(weights).__name__}"
        )
    for base in type(weights).__mro__:
        names = model.imports.get(f"{base.__module__}.{base.__qualname__}")
        if names is not None:
            _check_rnn(model, weights)
            return _mapped(model, _state(weights), names, exact=False)
    return _state(weights)


def _state(module: object) -> Mapping[str, Any]:
    state: Any = getattr(module, "state_dict", None)
    return dict(state()) if state is not None else dict(module)  # type: ignore[call-overload]


def _check_rnn(model: Model, module: Any) -> None:
    wrong = [
        f"{option}={getattr(module, option)}"
        for option, wanted in (("num_layers", 1), ("bidirectional", False), ("proj_size", 0))
        if getattr(module, option, wanted) != wanted
    ]
    if wrong:
        raise WeightError(
            f"{model.name} is one layer in one direction without projection, got "
            f"{type(module).__name__} with {', '.join(wrong)}; import its layers one by one"
        )


def _mapped(
    model: Model, state: Mapping[str, Any], names: Mapping[str, str], *, exact: bool
) -> dict[str, Any]:
    """Values of the parameters; exact: a name that is no parameter is left in, to be refused."""
    found: dict[str, Any] = {}
    problems: list[str] = []
    for name, text in names.items():
        if name not in model.params and not exact:
            continue
        try:
            value = _evaluate(text, state)
        except _NoName as error:
            problems.append(f"{name} = {text!r} names {error}, which the module has not")
            continue
        except (SyntaxError, ValueError, IndexError) as error:
            problems.append(f"{name} = {text!r} is not understood ({error})")
            continue
        found[name] = np.zeros(model.params[name]) if value is None else value
    if problems:
        raise WeightError(
            f"weights of {model.name} are not all in the module: {'; '.join(problems)} "
            f"(it has {', '.join(state)})"
        )
    return found


class _NoName(Exception):
    """A name the module has not."""


_MAYBE = "__maybe__"


def _evaluate(text: str, state: Mapping[str, Any]) -> Weights | None:
    """The value of an import expression, None for an optional name that is absent."""
    return _value(ast.parse(text.replace("?", f".{_MAYBE}"), mode="eval").body, state)


def _value(at: ast.expr, state: Mapping[str, Any]) -> Weights | None:
    match at:
        case ast.BinOp(left, ast.Add(), right):
            x, y = _value(left, state), _value(right, state)
            if x is None or y is None:
                return y if x is None else x
            return np.asarray(x + y)
        case ast.Attribute(inner, "T"):
            found = _value(inner, state)
            return None if found is None else found.T
        case ast.Attribute(inner, name) if name == _MAYBE:
            dotted = _dotted(inner)
            return as_array(state[dotted]) if dotted in state else None
        case ast.Subscript(inner, index):
            found = _value(inner, state)
            parts = index.elts if isinstance(index, ast.Tuple) else [index]
            return None if found is None else found[tuple(_slice(part) for part in parts)]
    dotted = _dotted(at)
    if dotted not in state:
        raise _NoName(dotted)
    return as_array(state[dotted])


def _slice(at: ast.expr) -> slice:
    if not isinstance(at, ast.Slice) or at.step is not None:
        raise ValueError("an index must be a slice a:b")
    bounds = [None if b is None else int(ast.literal_eval(b)) for b in (at.lower, at.upper)]
    return slice(*bounds)


def _dotted(at: ast.expr) -> str:
    match at:
        case ast.Name(name):
            return name
        case ast.Attribute(inner, name):
            return f"{_dotted(inner)}.{name}"
    raise ValueError("names, .T, [a:b], + and ? are what may be written")
