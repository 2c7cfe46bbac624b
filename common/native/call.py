"""The checked call: one Python function generated per prototype.

The generated function tests, without a loop or a call of its own, the two common cases (every
pointer is a torch tensor, every pointer is a numpy array). Whatever fails a test goes to
`Checks.call`, which knows every case and words the errors. For
`void scale(const float* x, float* out, int64_t n)` it reads

    def scale(x, out, n):
        if type(x) in TENSORS:
            if (
                x.dtype is torch_float32 and x.is_cpu and x.is_contiguous()
                and type(out) in TENSORS and out.dtype is torch_float32 and out.is_cpu
                and out.is_contiguous() and not out.requires_grad and type(n) is int
            ):
                try:
                    return BY_ADDRESS(x.data_ptr(), out.data_ptr(), n)
                except OverflowError:
                    pass
        elif ...
        return CHECKED(x, out, n)

Neither torch nor numpy is imported here: a tensor can only arrive after its module was loaded.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, Protocol

import attrs

from common.native.prototype import Parameter, Prototype

_FLOATS = ("float", "double")


class NativeFunction(Protocol):
    """A checked native function; `raw` takes addresses and numbers and checks nothing."""

    raw: Callable[..., Any]
    prototype: Prototype

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


def make(prototype: Prototype, ffi: Any, symbol: Any, ran: list[bool] | None) -> NativeFunction:
    """Generate the checked callable of one function.

    symbol: the function as the ffi's library gives it
    ran: a flag to raise before each call, if the function may start OpenMP threads
    """
    by_address = ffi.cast(prototype.integer_type, symbol)
    scope: dict[str, Any] = {
        "BY_ADDRESS": by_address,
        "BY_POINTER": symbol,
        "FROM_BUFFER": ffi.from_buffer,
        "OVERFLOW": (OverflowError, ValueError, BufferError),
        "RAN": ran,
        "TENSORS": frozenset(),
        "ARRAY": None,
    }
    for parameter in prototype.parameters:
        if parameter.is_pointer:
            scope[f"POINTER_{parameter.ctype}"] = ffi.typeof(f"{parameter.ctype} *")
            scope[f"torch_{parameter.dtype}"] = scope[f"numpy_{parameter.dtype}"] = None
    checks = Checks(prototype, by_address, scope, ran)
    scope["CHECKED"] = checks.call
    checks.learn_types()
    exec(compile(_source(prototype, ran is not None), f"<{prototype.name}>", "exec"), scope)
    function: NativeFunction = scope["checked"]
    function.prototype = prototype
    function.raw = by_address if ran is None else scope["raw"]
    function.__name__ = function.__qualname__ = prototype.name  # type: ignore[attr-defined]  # it is a plain function
    function.__doc__ = f"Call `{prototype}` with its arguments checked."
    return function


def _source(prototype: Prototype, is_openmp: bool) -> str:
    names = ", ".join(p.name for p in prototype.parameters)
    mark = ["    RAN[0] = True"] if is_openmp else []
    lines = [f"def checked({names}):", *mark]
    pointers = [p for p in prototype.parameters if p.is_pointer]
    numbers = [_number_test(p) for p in prototype.parameters if not p.is_pointer]
    if pointers:
        first = pointers[0].name
        tests = [_tensor_tests(p) for p in pointers]
        lines += _branch(
            f"if type({first}) in TENSORS:",
            tests,
            numbers,
            _call("BY_ADDRESS", prototype, "{p.name}.data_ptr()"),
            "OverflowError",
        )
        if not any(p.is_strided for p in pointers):
            buffer = "FROM_BUFFER(POINTER_{p.ctype}, {p.name}, {p.is_written})"
            tests = [_array_tests(p) for p in pointers]
            lines += _branch(
                f"elif type({first}) is ARRAY:",
                tests,
                numbers,
                _call("BY_POINTER", prototype, buffer),
                "OVERFLOW",
            )
    lines += [f"    return CHECKED({names})"]
    if is_openmp:
        lines += [f"def raw({names}):", *mark, f"    return BY_ADDRESS({names})"]
    return "\n".join(lines)


def _branch(head: str, tests: list[str], numbers: list[str], call: str, errors: str) -> list[str]:
    return [
        f"    {head}",
        f"        if {' and '.join([*tests, *numbers])}:",
        "            try:",
        f"                return {call}",
        f"            except {errors}:",
        "                pass",
    ]


def _call(function: str, prototype: Prototype, pointer: str) -> str:
    words = [pointer.format(p=p) if p.is_pointer else p.name for p in prototype.parameters]
    return f"{function}({', '.join(words)})"


def _tensor_tests(p: Parameter) -> str:
    tests = f"type({p.name}) in TENSORS and {p.name}.dtype is torch_{p.dtype} and {p.name}.is_cpu"
    if not p.is_strided:
        tests += f" and {p.name}.is_contiguous()"
    return f"{tests} and not {p.name}.requires_grad" if p.is_written else tests


def _array_tests(p: Parameter) -> str:
    # Contiguity and writability are tested by the buffer protocol itself.
    return f"type({p.name}) is ARRAY and {p.name}.dtype is numpy_{p.dtype}"


def _number_test(p: Parameter) -> str:
    return f"type({p.name}) is {'float' if p.ctype in _FLOATS else 'int'}"


@attrs.define
class Checks:
    """Every check of a call, parameter by parameter, and the wording of what fails."""

    prototype: Prototype
    by_address: Callable[..., Any]
    scope: dict[str, Any]
    ran: list[bool] | None

    def call(self, *args: Any) -> Any:
        """Check and convert each argument, then call.

        Raises TypeError for a wrong kind, dtype or device, ValueError for a layout, a read-only
        or grad-requiring output, OverflowError for a number out of range.
        """
        self.learn_types()
        pairs = zip(self.prototype.parameters, args, strict=True)
        values = [self._address(p, a) if p.is_pointer else self._number(p, a) for p, a in pairs]
        return self.by_address(*values)

    def learn_types(self) -> None:
        """Give the generated code the types of torch and numpy as far as these are loaded."""
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        dtypes = {p.dtype for p in self.prototype.parameters if p.is_pointer}
        if self.scope["ARRAY"] is None and hasattr(numpy, "ndarray"):
            for dtype in dtypes - {"bfloat16"}:  # not one of numpy's own
                self.scope[f"numpy_{dtype}"] = numpy.dtype(dtype)  # type: ignore[union-attr]  # hasattr above
            self.scope["ARRAY"] = numpy.ndarray  # type: ignore[union-attr]  # hasattr above
        # torch.nn comes late in torch's own import; before it, torch is not usable yet.
        if not self.scope["TENSORS"] and hasattr(getattr(torch, "nn", None), "Parameter"):
            for dtype in dtypes:
                self.scope[f"torch_{dtype}"] = getattr(torch, dtype)
            self.scope["TENSORS"] = frozenset({torch.Tensor, torch.nn.Parameter})  # type: ignore[union-attr]  # hasattr above

    def _address(self, p: Parameter, value: Any) -> int:
        torch, numpy = sys.modules.get("torch"), sys.modules.get("numpy")
        if value is None and p.is_optional:
            return 0
        if torch is not None and isinstance(value, torch.Tensor):
            return self._tensor_address(p, value)
        if numpy is not None and isinstance(value, numpy.ndarray):
            return self._array_address(p, value)
        wanted = "a torch tensor or numpy array" + (" or None" if p.is_optional else "")
        raise TypeError(f"{self._where(p)} must be {wanted}, got {type(value).__name__}")

    def _tensor_address(self, p: Parameter, tensor: Any) -> int:
        dtype = str(tensor.dtype).removeprefix("torch.")
        self._check_dtype(p, dtype, "tensor.to(torch.{})")
        if tensor.device.type != "cpu":
            raise TypeError(
                f"{self._where(p)} must be on the CPU, got {tensor.device}: pass tensor.cpu()"
            )
        if str(tensor.layout) != "torch.strided":
            raise TypeError(f"{self._where(p)} must be a strided tensor, got {tensor.layout}")
        self._check_layout(p, tensor.is_contiguous(), tuple(tensor.shape), tensor.stride())
        if p.is_written and tensor.requires_grad:
            raise ValueError(
                f"{self._where(p)} is written, but the tensor requires grad and autograd would not "
                "see the change: pass tensor.detach()"
            )
        address: int = tensor.data_ptr()
        return address

    def _array_address(self, p: Parameter, array: Any) -> int:
        name = array.dtype.name if array.dtype.isnative else f"byte-swapped {array.dtype.name}"
        self._check_dtype(p, name, "array.astype({!r})")
        self._check_layout(p, array.flags.c_contiguous, array.shape, array.strides)
        if p.is_written and not array.flags.writeable:
            raise ValueError(
                f"{self._where(p)} is written, but the array is read-only: pass array.copy()"
            )
        address: int = array.__array_interface__["data"][0]
        return address

    def _check_dtype(self, p: Parameter, got: str, way_out: str) -> None:
        if got != p.dtype:
            raise TypeError(
                f"{self._where(p)} must have dtype {p.dtype}, got {got}: "
                f"pass {way_out.format(p.dtype)}"
            )

    def _check_layout(
        self, p: Parameter, is_contiguous: bool, shape: tuple[int, ...], strides: tuple[int, ...]
    ) -> None:
        if not is_contiguous and not p.is_strided:
            raise ValueError(
                f"{self._where(p)} must be contiguous, got shape {tuple(shape)} with strides "
                f"{tuple(strides)}: pass a contiguous copy"
            )

    def _number(self, p: Parameter, value: Any) -> int | float:
        if p.ctype in _FLOATS:
            if not (hasattr(value, "__float__") or hasattr(value, "__index__")):
                raise TypeError(f"{self._where(p)} must be a number, got {type(value).__name__}")
            return float(value)
        try:
            number = operator.index(value)
        except TypeError:
            raise TypeError(
                f"{self._where(p)} must be an integer, got {type(value).__name__} {value!r}"
            ) from None
        bits = int("".join(filter(str.isdigit, p.ctype)))
        low, high = (
            (0, 2**bits - 1) if p.ctype[0] == "u" else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        )
        if not low <= number <= high:
            raise OverflowError(
                f"{self._where(p)} must fit {p.ctype} [{low}, {high}], got {number}"
            )
        return number

    def _where(self, p: Parameter) -> str:
        return f"{self.prototype.name}: {p.name!r}"
