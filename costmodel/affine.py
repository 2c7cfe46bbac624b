"""Integer expressions that are linear in the loops around them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import attrs


def _in_order(terms: dict[str, int] | Iterable[tuple[str, int]]) -> tuple[tuple[str, int], ...]:
    pairs = terms.items() if isinstance(terms, dict) else terms
    return tuple(sorted((name, factor) for name, factor in pairs if factor))


@attrs.frozen
class Affine:
    """sum of factor * iterator over the terms, plus a constant.

    terms: iterators with their factors, sorted by name, none of them 0
    """

    terms: tuple[tuple[str, int], ...] = attrs.field(default=(), converter=_in_order)
    const: int = 0

    @staticmethod
    def of(name: str) -> Affine:
        return Affine(((name, 1),))

    def __add__(self, other: Affine | int) -> Affine:
        if isinstance(other, int):
            return Affine(self.terms, self.const + other)
        factors = dict(self.terms)
        for name, factor in other.terms:
            factors[name] = factors.get(name, 0) + factor
        return Affine(factors, self.const + other.const)

    def __sub__(self, other: Affine | int) -> Affine:
        return self + other * -1

    def __mul__(self, factor: int) -> Affine:
        return Affine([(name, f * factor) for name, f in self.terms], self.const * factor)

    def factor(self, name: str) -> int:
        return dict(self.terms).get(name, 0)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.terms)

    def substitute(self, values: Mapping[str, Affine]) -> Affine:
        """Iterators replaced by expressions; those without an entry stay."""
        factors: dict[str, int] = {}
        const = self.const
        for name, factor in self.terms:
            value = values.get(name)
            if value is None:
                factors[name] = factors.get(name, 0) + factor
                continue
            const += factor * value.const
            for inner, times in value.terms:
                factors[inner] = factors.get(inner, 0) + factor * times
        return Affine(factors, const)

    def value(self, point: Mapping[str, int]) -> int:
        return self.const + sum(factor * point[name] for name, factor in self.terms)

    def __str__(self) -> str:
        """Text that Python, C and isl read alike: `2*i - j + 1`."""
        text = ""
        for name, factor in self.terms:
            size = name if abs(factor) == 1 else f"{abs(factor)}*{name}"
            if not text:
                text = size if factor > 0 else f"-{size}"
            else:
                text += f" + {size}" if factor > 0 else f" - {size}"
        if not text:
            return str(self.const)
        if self.const:
            text += f" {'+' if self.const > 0 else '-'} {abs(self.const)}"
        return text
