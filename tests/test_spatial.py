"""How mechanics for many environments is laid out for XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_safety.spatial import keep


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="counts the operations of a program for CPUs")
def test_what_is_kept_is_worked_out_once():
    """XLA would work the sine out again for each product, each in a loop of its own."""

    def count(stored):
        def products(x):
            sine = stored(jnp.sin(x))
            return [sine[::-1] * sine, sine[1:] * sine[:-1]]

        return jax.jit(products).lower(jnp.zeros(64)).compile().as_text().count(" sine(")

    assert count(lambda x: x) > 1
    assert count(keep) == 1


def test_what_is_kept_stays_the_same():
    """Whatever the types, batched, and with its slope."""
    numbers = jnp.linspace(0.0, 1.0, 6).reshape(3, 2)
    tree = {"numbers": numbers, "flags": jnp.array([True, False, True]), "counts": jnp.arange(3)}
    kept = jax.jit(jax.vmap(keep))(tree)
    jax.tree.map(np.testing.assert_array_equal, kept, tree)
    slope = jax.grad(lambda x: (keep(x) ** 2).sum())(numbers)
    np.testing.assert_allclose(slope, 2 * numbers)
