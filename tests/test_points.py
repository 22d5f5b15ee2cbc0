"""Contacts at their points beside the energy whose slope and curvature they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_safety import collide, contact, spatial
from mjx_safety.points import Points, onto

CONTACTS, BODIES = 4, (2, 3)


def points(floor: bool) -> Points:
    """Random contacts of six bodies, every fourth without stiffness."""
    rng, num = np.random.default_rng(0), CONTACTS * BODIES[0] * BODIES[1]
    arm, normal, offset = (list(jnp.asarray(rng.normal(size=(3, num)), jnp.float32)) for _ in range(3))
    normal = spatial.scale(normal, 1 / spatial.norm(normal))
    side = collide.tangent(normal, [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    axes = None if floor else [normal, side, spatial.cross(normal, side)]
    stiffness = jnp.asarray(rng.uniform(1, 2, num) * (np.arange(num) % 4 > 0), jnp.float32)
    return Points(arm, axes, offset, stiffness)


def energy(acc, points):
    """Half the stiffness times the square by which each edge of the pyramid gives way; six edges have no friction."""
    normal, *others = (x + y for x, y in zip(onto(points.axes, points.accelerations(acc)), points.offset, strict=True))
    edges = [normal] * (contact.EDGES - 4)
    for friction, other in zip(contact.FRICTION, others, strict=False):
        edges += [normal + friction * other, normal - friction * other]
    return sum((0.5 * points.stiffness * jnp.minimum(edge, 0.0) ** 2).sum() for edge in edges)


@pytest.mark.parametrize("floor", [True, False])
def test_forces_and_their_fall_are_slope_and_curvature_of_the_energy(floor):
    some = points(floor)
    acc = jnp.asarray(np.random.default_rng(1).normal(size=(6, *BODIES)), jnp.float32)
    matrix, push = some.on_bodies(some.react(some.accelerations(acc)), BODIES)
    np.testing.assert_allclose(jnp.stack(push), -jax.grad(energy)(acc, some), rtol=1e-4, atol=1e-4)
    curvature = np.einsum("iabjab->ijab", jax.hessian(energy)(acc, some))
    assert np.abs(curvature).max() > 10
    for i, row in enumerate(matrix):
        np.testing.assert_allclose(jnp.stack(row), curvature[i, : i + 1], rtol=1e-4, atol=1e-3)


def test_the_floor_is_a_plane_like_any_other():
    some = points(floor=True)
    one, none = jnp.ones_like(some.stiffness), jnp.zeros_like(some.stiffness)
    told = some._replace(axes=[[none, none, one], [none, one, none], [-one, none, none]])
    at_points = some.arm
    for short, full in zip(jax.tree.leaves(some.react(at_points)), jax.tree.leaves(told.react(at_points)), strict=True):
        np.testing.assert_allclose(short, full, atol=1e-5)
