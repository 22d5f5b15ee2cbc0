"""Reductions over a whole batch, wherever its parts lie.

A batch is split over the devices of the mesh axis AXIS, every device holding the same share (see `agents.mesh`). A
number that the whole batch decides, such as a mean or a gradient, must come through here: the local share first, then
the other devices'. Every device ends up with the same value, bit by bit.

`mean` may be differentiated: JAX transposes the sum over devices into a sum over devices, so that each device gets its
share of the gradient, and `average` of these shares is the gradient of the whole.
"""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree

AXIS = "data"

Tree = TypeVar("Tree")


def average(tree: Tree) -> Tree:
    """Mean over devices of float32 arrays that each one has computed from its share."""
    assert all(x.dtype == jnp.float32 for x in jax.tree.leaves(tree))
    if jax.lax.axis_size(AXIS) == 1:  # XLA does not remove an all-reduce over a single device from a loop
        return tree
    # As one array: XLA's CPU devices meet once for every array of an all-reduce, and wait for each other each time.
    flat, unravel = ravel_pytree(tree)
    return unravel(jax.lax.pmean(flat, AXIS))


def mean(x: jax.Array, axes: tuple[int, ...] | None = None) -> jax.Array:
    """Mean over local axes, all of them by default, and over devices."""
    return average(jnp.mean(x, axes))


def moments(x: jax.Array, axes: tuple[int, ...] | None = None) -> tuple[jax.Array, jax.Array]:
    """Mean and biased variance over local axes, leading ones or by default all, and over devices."""
    centre = mean(x, axes)
    return centre, mean(jnp.square(x - centre), axes)


def total(x: jax.Array) -> jax.Array:
    """Sum over all local axes and over devices, float32 []."""
    return jax.lax.psum(jnp.sum(x.astype(jnp.float32)), AXIS)
