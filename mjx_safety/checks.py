"""Checks of user settings, with one sentence of complaint."""

import difflib
import math
import numbers
from collections.abc import Iterable
from typing import Any


def nearest(word: str, known: Iterable[str]) -> str:
    """The question whether the known word most like `word` was meant, or nothing where none is like it."""
    matches = difflib.get_close_matches(word, known, n=1)
    return f" Did you mean {matches[0]!r}?" if matches else ""


def number(
    name: str, value: Any, *, least: float = -math.inf, above: float = -math.inf, most: float = math.inf
) -> None:
    """Raises ValueError unless `value` is a finite real number, `least` to `most` and more than `above`."""
    real = isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)
    if not real or not (least <= float(value) <= most and float(value) > above):
        bound = f" of at least {least:g}" if least > -math.inf else f" above {above:g}" if above > -math.inf else ""
        bound += f" and at most {most:g}" if most < math.inf else ""
        raise ValueError(f"{name} is {value!r}; it must be a finite number{bound}.")


def whole(name: str, value: Any, least: int, most: int | None = None) -> None:
    """Raises ValueError unless `value` is an integer from `least` to `most`."""
    sound = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not sound or int(value) < least or (most is not None and int(value) > most):
        bound = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{name} is {value!r}; it must be a whole number {bound}.")


def kind(name: str, value: Any, *kinds: type) -> None:
    """Raises ValueError unless `value` is of one of the kinds."""
    if not isinstance(value, kinds):
        raise ValueError(f"{name} is {value!r}; it must be a {' or '.join(k.__name__ for k in kinds)}.")


def rectangle(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is (x_min, y_min, x_max, y_max) in order."""
    if not _finite(value, 4) or not (value[0] < value[2] and value[1] < value[3]):
        raise ValueError(f"{name} is {value!r}; it must be (x_min, y_min, x_max, y_max) in order.")


def point(name: str, value: Any) -> None:
    """Raises ValueError unless `value` is (x, y)."""
    if not _finite(value, 2):
        raise ValueError(f"{name} is {value!r}; it must be (x, y).")


def _finite(value: Any, length: int) -> bool:
    """Whether `value` is a tuple of so many finite real numbers."""
    reals = isinstance(value, tuple) and len(value) == length and all(isinstance(x, numbers.Real) for x in value)
    return reals and all(map(math.isfinite, value))
