"""Polynomials for angles, beside NumPy in double precision."""

import jax.numpy as jnp
import numpy as np

from mjx_safety.angles import cos_sin, heading, turned


def test_headings_are_those_of_arctan2():
    x, y = np.random.default_rng(0).normal(size=(2, 100_000)).astype(np.float32)
    x[:6], y[:6] = [0, 1, -1, 0, 0, -1], [0, 0, 0, 1, -1, -1e-9]
    expected = np.arctan2(y.astype(float), x.astype(float))
    np.testing.assert_allclose(heading(jnp.asarray(x), jnp.asarray(y)), expected, atol=4e-7)


def test_cosines_and_sines_are_those_of_numpy():
    angles = np.random.default_rng(0).uniform(-1e4, 1e4, 200_000).astype(np.float32)
    angles[:17] = np.pi / 4 * np.arange(-8, 9)
    cos, sin = cos_sin(jnp.asarray(angles))
    np.testing.assert_allclose(cos, np.cos(angles.astype(float)), atol=1e-7)
    np.testing.assert_allclose(sin, np.sin(angles.astype(float)), atol=1e-7)


def test_small_turns_are_those_of_numpy():
    start, angle = np.random.default_rng(0).uniform([[-np.pi], [-0.7]], [[np.pi], [0.7]], (2, 100_000))
    cos, sin = turned((jnp.cos(start), jnp.sin(start)), jnp.asarray(angle, jnp.float32))
    np.testing.assert_allclose(cos, np.cos(start + angle), atol=3e-7)
    np.testing.assert_allclose(sin, np.sin(start + angle), atol=3e-7)
