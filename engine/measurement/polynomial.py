"""Polynomials that fit a model's operations as a function of its input's shape."""

from __future__ import annotations

Polynomial = dict[str, list[int]]
"""`per_call` and `per_sequence`, each with three coefficients by powers of the length. The value for a call of b
sequences of n tokens is the sum of per_call[i] * n ** i + b * per_sequence[i] * n ** i over i."""


def evaluate(polynomial: Polynomial, rows: float, length: float) -> float:
    """The value for a call of `rows` sequences of `length` tokens; a whole number for whole numbers."""
    shared, each = polynomial["per_call"], polynomial["per_sequence"]
    return sum((a + rows * b) * length**power for power, (a, b) in enumerate(zip(shared, each, strict=True)))
