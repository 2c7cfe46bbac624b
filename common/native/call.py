"""The checked call: one Python function generated per prototype.

The generated function tests, without a loop or a call of its own, the two common cases: every
pointer is a torch tensor, or every pointer is a numpy array. Whatever fails a test goes to
`Checks.call`, which knows every case and words the errors. For
`void scale(const float* x, float* out, int64_t n)` it reads

    def checked(x, out, n):
        try:
            if (
                x.dtype is torch_float32 and x.is_cpu and x.is_contiguous()
                and out.dtype is torch_float32 and out.is_cpu and out.is_contiguous()
                and not out.requires_grad and type(n) is int
            ):
                return BY_ADDRESS(x.data_ptr() or EMPTY(x), out.data_ptr() or EMPTY(out), n)
            if x.dtype is numpy_float32 and out.dtype is numpy_float32 and type(n) is int:
                return BY_POINTER(
                    FROM_BUFFER(POINTER_float, x, False), FROM_BUFFER(POINTER_float, out, True), n
                )
        except UNUSUAL:
            pass
        return CHECKED(x, out, n)

Neither torch nor numpy is imported here: a tensor can only arrive after its module was loaded.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, NoReturn, Protocol, cast

import attrs

from common.native.prototype import Parameter, Prototype

_FLOATS = ("float", "double")
_RANGES = {
    f"{sign}int{bits}_t": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("", "u")
    for bits in (8, 16, 32, 64)
}
_UNKNOWN = object()  # stands for the dtypes of a module that is not loaded yet


class NativeFunction(Protocol):
    """A checked native function; `raw` takes addresses and numbers and checks nothing."""

    raw: Callable[..., Any]
    prototype: Prototype

    def __call__(self, *args: Any, **kwargs: Any) -> Any: ...


# What reading attributes of anything at all, or taking its memory, raises. The C function itself
# raises nothing, so nothing of it is hidden.
_UNUSUAL = (AttributeError, BufferError, OverflowError, RuntimeError, TypeError, ValueError)


def make(prototype: Prototype, ffi: Any, symbol: Any, ran: list[bool] | None) -> NativeFunction:
    """Generate the checked callable of one function.

    symbol: the function as the ffi's library gives it
    ran: a flag to raise before each call, if the function may start OpenMP threads
    """
    by_address = ffi.cast(prototype.integer_type, symbol)
    scope: dict[str, Any] = {
        "BY_ADDRESS": by_address,
        "BY_POINTER": symbol,
        "EMPTY": _empty_address,
        "FROM_BUFFER": ffi.from_buffer,
        "RAN": ran,
        "UNUSUAL": _UNUSUAL,
    }
    for p in prototype.parameters:
        if p.is_pointer:
            scope[f"POINTER_{p.ctype}"] = ffi.typeof(f"{p.ctype} *")
    checks = Checks(prototype, by_address, scope)
    scope["CHECKED"] = checks.call
    exec(compile(_source(prototype, ran is not None), f"<{prototype.name}>", "exec"), scope)
    function: Any = scope["checked"]
    function.__name__ = function.__qualname__ = prototype.name
    function.__doc__ = f"Call `{prototype}` with its arguments checked."
    function.prototype = prototype
    function.raw = by_address if ran is None else scope["raw"]
    return cast(NativeFunction, function)


def _empty_address(tensor: Any) -> int:
    """The address of a tensor at 0: fine if it is empty, but a fake tensor has it as well."""
    if tensor.numel():
        raise RuntimeError("it has elements but no data pointer")
    return 0


def _source(prototype: Prototype, is_openmp: bool) -> str:
    names = ", ".join(p.name for p in prototype.parameters)
    mark = ["    RAN[0] = True"] if is_openmp else []
    lines = [f"def checked({names}):", *mark, "    try:"]
    for case in _cases(prototype):
        lines += [f"        {line}" for line in case]
    lines += ["    except UNUSUAL:", "        pass", f"    return CHECKED({names})"]
    if is_openmp:
        lines += [f"def raw({names}):", *mark, f"    return BY_ADDRESS({names})"]
    return "\n".join(lines)


def _cases(prototype: Prototype) -> list[list[str]]:
    """The quick cases: a condition, and the call it allows."""
    numbers = [_number_test(p) for p in prototype.parameters if not p.is_pointer]
    pointers = [p for p in prototype.parameters if p.is_pointer]
    tensors = [*map(_tensor_tests, pointers), *numbers]
    by_address = _call("BY_ADDRESS", prototype, "{p.name}.data_ptr() or EMPTY({p.name})")
    cases = [[f"if {' and '.join(tensors) or True}:", f"    return {by_address}"]]
    # The buffer protocol itself refuses arrays that are not contiguous or not writable.
    if pointers and not any(p.is_strided for p in pointers):
        arrays = [f"{p.name}.dtype is numpy_{p.dtype}" for p in pointers] + numbers
        buffer = "FROM_BUFFER(POINTER_{p.ctype}, {p.name}, {p.is_written})"
        by_pointer = _call("BY_POINTER", prototype, buffer)
        cases.append([f"if {' and '.join(arrays)}:", f"    return {by_pointer}"])
    return cases


def _call(function: str, prototype: Prototype, pointer: str) -> str:
    words = [pointer.format(p=p) if p.is_pointer else p.name for p in prototype.parameters]
    return f"{function}({', '.join(words)})"


def _tensor_tests(p: Parameter) -> str:
    tests = f"{p.name}.dtype is torch_{p.dtype} and {p.name}.is_cpu"
    if not p.is_strided:
        tests += f" and {p.name}.is_contiguous()"
    return f"{tests} and not {p.name}.requires_grad" if p.is_written else tests


def _number_test(p: Parameter) -> str:
    return f"type({p.name}) is {'float' if p.ctype in _FLOATS else 'int'}"


@attrs.define(eq=False)
class Checks:
    """Every check of a call, parameter by parameter, and the wording of what fails."""

    prototype: Prototype
    by_address: Callable[..., Any]
    scope: dict[str, Any]  # the globals of the generated function
    has_unknown: bool = True  # some dtype's module was not loaded yet

    def __attrs_post_init__(self) -> None:
        for p in self.prototype.parameters:
            if p.is_pointer:
                # No dtype of anything, until the module with the real one is loaded.
                self.scope[f"torch_{p.dtype}"] = self.scope[f"numpy_{p.dtype}"] = _UNKNOWN
        self._learn_dtypes()

    def call(self, *args: Any) -> Any:
        """Check and convert each argument, then call.

        Raises TypeError for a wrong kind, dtype or device, ValueError for a layout, a read-only
        or grad-requiring output, OverflowError for a number out of range.
        """
        if self.has_unknown:
            self._learn_dtypes()
        pairs = zip(self.prototype.parameters, args, strict=True)
        values = [self._address(p, a) if p.is_pointer else self._number(p, a) for p, a in pairs]
        return self.by_address(*values)

    def _learn_dtypes(self) -> None:
        """Give the generated code the dtypes of torch and numpy as far as these are loaded."""
        for p in self.prototype.parameters:
            for module in ("torch", "numpy"):
                name, loaded = f"{module}_{p.dtype}", sys.modules.get(module)
                if self.scope.get(name) is _UNKNOWN and hasattr(loaded, p.dtype):
                    dtype: Any = getattr(loaded, p.dtype)
                    self.scope[name] = dtype if module == "torch" else loaded.dtype(dtype)  # type: ignore[union-attr]  # hasattr above
        self.has_unknown = any(value is _UNKNOWN for value in self.scope.values())

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
        if tensor.dtype is not self.scope[f"torch_{p.dtype}"]:
            self._refuse_dtype(p, str(tensor.dtype), f"tensor.to(torch.{p.dtype})")
        if not tensor.is_cpu:
            raise TypeError(
                f"{self._where(p)} must be on the CPU, got {tensor.device}: pass tensor.cpu()"
            )
        if tensor.layout is not sys.modules["torch"].strided:
            raise TypeError(f"{self._where(p)} must be a strided tensor, got {tensor.layout}")
        if not (tensor.is_contiguous() or p.is_strided):
            self._refuse_layout(p, tensor.shape, tensor.stride())
        if p.is_written and tensor.requires_grad:
            raise ValueError(
                f"{self._where(p)} is written, but the tensor requires grad and autograd would not "
                "see the change: pass tensor.detach()"
            )
        try:
            return tensor.data_ptr() or _empty_address(tensor)
        except RuntimeError as error:
            raise TypeError(
                f"{self._where(p)} must be a tensor with memory of its own, "
                f"got a {type(tensor).__name__} without: {error}"
            ) from None

    def _array_address(self, p: Parameter, array: Any) -> int:
        # Equal rather than identical: an unpickled dtype is another object.
        if array.dtype != self.scope[f"numpy_{p.dtype}"] and array.dtype.name != p.dtype:
            self._refuse_dtype(p, array.dtype, f"array.astype({p.dtype!r})")
        if not array.dtype.isnative:
            self._refuse_dtype(p, f"byte-swapped {array.dtype}", f"array.astype({p.dtype!r})")
        if not (array.flags.c_contiguous or p.is_strided):
            self._refuse_layout(p, array.shape, array.strides)
        if p.is_written and not array.flags.writeable:
            raise ValueError(
                f"{self._where(p)} is written, but the array is read-only: pass array.copy()"
            )
        address: int = array.ctypes.data
        return address

    def _refuse_dtype(self, p: Parameter, got: object, way_out: str) -> NoReturn:
        raise TypeError(f"{self._where(p)} must have dtype {p.dtype}, got {got}: pass {way_out}")

    def _refuse_layout(self, p: Parameter, shape: Any, strides: Any) -> NoReturn:
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
        low, high = _RANGES[p.ctype]
        if not low <= number <= high:
            raise OverflowError(
                f"{self._where(p)} must fit {p.ctype} [{low}, {high}], got {number}"
            )
        return number

    def _where(self, p: Parameter) -> str:
        return f"{self.prototype.name}: {p.name!r}"
