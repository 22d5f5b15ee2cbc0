"""Polynomials for angles, beside NumPy in double precision."""

import jax.numpy as jnp
import numpy as np
import pytest

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


@pytest.mark.parametrize(("most", "error"), [(0.5, 1e-7), (1.0, 3e-6)])
def test_small_turns_are_those_of_numpy(most, error):
    start, angle = np.random.default_rng(0).uniform([[-np.pi], [-most]], [[np.pi], [most]], (2, 100_000))
    begin = np.stack([np.cos(start), np.sin(start)]).astype(np.float32)
    angle = angle.astype(np.float32)
    cos, sin = begin.astype(float)
    further = cos * np.cos(angle.astype(float)) - sin * np.sin(angle.astype(float))
    across = sin * np.cos(angle.astype(float)) + cos * np.sin(angle.astype(float))
    got = turned(tuple(jnp.asarray(begin)), jnp.asarray(angle))
    np.testing.assert_allclose(got, [further, across], atol=error + 6e-8)  # and what rounding to float32 adds
