"""Reductions over short axes of length 1 or more, written out as arithmetic that fuses with what is around it.

XLA's CPU back end hands reductions to a library, which costs more than all the arithmetic of an environment step. And
its minima and maxima take four instructions, because they pass on what is not a number; these here take one.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp


def _reduce(op: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, axis: int) -> jax.Array:
    return functools.reduce(op, (jax.lax.index_in_dim(x, i, axis, keepdims=False) for i in range(x.shape[axis])))


def lesser(x: jax.Array, y: jax.Array | float) -> jax.Array:
    """`jnp.minimum` of numbers."""
    return jnp.where(x < y, x, y)


def greater(x: jax.Array, y: jax.Array | float) -> jax.Array:
    """`jnp.maximum` of numbers."""
    return jnp.where(x > y, x, y)


def sum(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.sum`."""
    return _reduce(jnp.add, x, axis)


def max(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.max`."""
    return _reduce(greater, x, axis)


def min(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.min`."""
    return _reduce(lesser, x, axis)


def any(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.any`."""
    return _reduce(jnp.logical_or, x, axis)


def all(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.all`."""
    return _reduce(jnp.logical_and, x, axis)


def norm(x: jax.Array, axis: int) -> jax.Array:
    """`jnp.linalg.norm`."""
    return jnp.sqrt(sum(x * x, axis))
