"""How mechanics for many environments is laid out for XLA."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_safety import spatial
from mjx_safety.spatial import keep, keep_on_cpu


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


@pytest.mark.parametrize("store", [keep, keep_on_cpu])
def test_what_is_kept_stays_the_same(store):
    """Whatever the types, batched, and with its slope."""
    numbers = jnp.linspace(0.0, 1.0, 6).reshape(3, 2)
    tree = {"numbers": numbers, "flags": jnp.array([True, False, True]), "counts": jnp.arange(3)}
    kept = jax.jit(jax.vmap(store))(tree)
    jax.tree.map(np.testing.assert_array_equal, kept, tree)
    slope = jax.grad(lambda x: (store(x) ** 2).sum())(numbers)
    np.testing.assert_allclose(slope, 2 * numbers)


@pytest.mark.parametrize("store", [keep, keep_on_cpu])
@pytest.mark.parametrize("platform", ["cpu", "cuda"])
def test_what_is_kept_flat_is_one_axis(store, platform):
    numbers = jnp.arange(24.0).reshape(4, 3, 2)
    flatten = jax.jit(jax.vmap(lambda x: store({"a": x, "b": -x}, flat=True)))
    flat = flatten(numbers)
    np.testing.assert_array_equal(flat["a"], numbers.reshape(4, 6))
    np.testing.assert_array_equal(flat["b"], -numbers.reshape(4, 6))
    program = flatten.trace(numbers).lower(lowering_platforms=(platform,)).as_text()
    assert ("inlineable" in program) == (platform == "cpu")
    assert ("optimization_barrier" in program) == (platform == "cuda" and store is keep)


def dense(columns):
    """The symmetric matrices of columns [6 - j, ...], as [..., 6, 6]."""
    mat = np.zeros((*np.shape(columns[0])[1:], 6, 6))
    for j, column in enumerate(columns):
        mat[..., j:, j] = mat[..., j, j:] = np.moveaxis(np.asarray(column), 0, -1)
    return mat


def test_columns_are_a_rigid_body_s_inertia():
    rng = np.random.default_rng(0)
    centre, root = rng.normal(size=(3, 7)).astype(np.float32), rng.normal(size=(3, 3)).astype(np.float32)
    twist = rng.normal(size=(6, 7)).astype(np.float32)
    inertia = np.float32(2.0), [2 * x for x in centre], [[np.full(7, x) for x in row] for row in root @ root.T]
    columns = [np.stack([np.broadcast_to(x, 7) for x in column]) for column in spatial.columns(inertia)]
    np.testing.assert_allclose(spatial.product(columns, twist), np.stack(spatial.apply(inertia, twist)), rtol=1e-4)
    np.testing.assert_allclose(
        spatial.product(columns, twist), np.einsum("bij,jb->ib", dense(columns), twist), rtol=1e-4
    )


def test_a_degree_of_freedom_is_eliminated_as_in_the_whole_system():
    """The body in front feels the Schur complement, and the joint moves as if all were solved at once."""
    rng = np.random.default_rng(1)
    factor = rng.normal(size=(5, 6, 6)).astype(np.float32)
    mat = factor @ factor.transpose(0, 2, 1) + np.eye(6, dtype=np.float32)
    columns = [mat[:, j:, j].T for j in range(6)]
    wrench, motion, base = rng.normal(size=(3, 6, 5)).astype(np.float32)
    torque, stiff = rng.uniform(size=(2, 5)).astype(np.float32)

    (left, felt), (share, rest) = spatial.eliminate((columns, wrench), motion, torque, stiff)

    column = np.einsum("bij,jb->bi", mat, motion)
    pivot = (motion.T * column).sum(1) + stiff
    rate = (torque - (motion * wrench).sum(0) - (column * base.T).sum(1)) / pivot
    np.testing.assert_allclose(rest - (share * base).sum(0), rate, rtol=1e-3)
    force = np.einsum("bij,bj->bi", mat, base.T + rate[:, None] * motion.T) + wrench.T
    np.testing.assert_allclose(np.einsum("bij,jb->bi", dense(left), base) + felt.T, force, atol=1e-3)
