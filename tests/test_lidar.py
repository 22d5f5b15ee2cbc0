"""The lidar against numbers worked out by hand, and its symmetries."""

import hypothesis
import hypothesis.strategies as st
import jax.numpy as jnp
import numpy as np
import pytest

from mjx_safety import geometry
from mjx_safety.lidar import Lidar

ORIGIN, UPRIGHT = jnp.zeros(3), jnp.eye(3)


def read(lidar, *points, pos=ORIGIN, mat=UPRIGHT):
    return np.asarray(lidar.read(pos, mat, jnp.array([[*p, 0.5] for p in points], jnp.float32)))


def at(dist, degrees):
    return (dist * np.cos(np.radians(degrees)), dist * np.sin(np.radians(degrees)))


def test_an_object_in_the_middle_of_a_bin_is_shared_equally_by_its_neighbours():
    expected = np.zeros(16)
    expected[[3, 4, 5]] = 0.25, 0.5, 0.25  # closeness (3 - 1.5) / 3; bin 4 spans 90 to 112.5 degrees
    np.testing.assert_allclose(read(Lidar(), at(1.5, 101.25)), expected, atol=1e-5)


def test_an_object_a_quarter_into_the_first_bin():
    expected = np.zeros(16)
    expected[[0, 1, 15]] = 2 / 3, 2 / 3 * 0.25, 2 / 3 * 0.75
    np.testing.assert_allclose(read(Lidar(), at(1.0, 22.5 / 4)), expected, atol=1e-5)


def test_the_nearest_object_of_a_bin_counts():
    alone = read(Lidar(), at(0.5, 30))
    np.testing.assert_allclose(read(Lidar(), at(0.5, 30), at(2.0, 30)), alone, atol=1e-6)


def test_beyond_its_range_it_sees_nothing():
    assert not read(Lidar(), at(3.01, 50)).any()


def test_exponential_closeness_without_a_range():
    got = read(Lidar(max_dist=None, exp_gain=0.5, alias=False), at(4.0, 50))
    np.testing.assert_allclose(got.max(), np.exp(-2.0), rtol=1e-5)
    assert (got > 0).sum() == 1


def test_nothing_to_see():
    assert not np.asarray(Lidar().read(ORIGIN, UPRIGHT, jnp.zeros((0, 3)))).any()


def test_a_tilted_robot_sees_along_its_own_plane():
    half = np.radians(60) / 2
    mat = geometry.quat_to_mat(
        jnp.array([np.cos(half), 0.0, np.sin(half), 0.0], jnp.float32)
    )  # nose down by 60 degrees
    got = read(Lidar(alias=False), (2.0, 0.0), mat=mat)
    np.testing.assert_allclose(got.max(), (3 - 2.0 * np.cos(np.radians(60))) / 3, atol=1e-5)


@hypothesis.settings(max_examples=50, deadline=None)
@hypothesis.given(st.integers(0, 15), st.floats(0.0, 22.0), st.floats(0.1, 2.9), st.integers(2, 14))
def test_turning_the_world_by_whole_bins_turns_the_reading(turn, within, dist, start):
    lidar = Lidar()
    angle = 22.5 * start + within
    here, there = read(lidar, at(dist, angle)), read(lidar, at(dist, angle + 22.5 * turn))
    np.testing.assert_allclose(np.roll(here, turn), there, atol=2e-4)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(st.floats(-3.0, 3.0), st.floats(-2.0, 2.0), st.floats(-2.0, 2.0))
def test_only_the_place_relative_to_the_robot_matters(yaw, x, y):
    lidar = Lidar()
    quat = geometry.yaw_to_quat(jnp.float32(yaw))
    mat, pos = geometry.quat_to_mat(quat), jnp.array([x, y, 0.1], jnp.float32)
    seen = jnp.array([1.0, 0.7, 0.0], jnp.float32)
    world = geometry.rotate(mat, seen) + pos
    got = np.asarray(lidar.read(pos, mat, world[None]))
    np.testing.assert_allclose(got, read(lidar, (1.0, 0.7)), atol=1e-4)


@pytest.mark.parametrize("wrong", [{"num_bins": 0}, {"max_dist": -1.0}])
def test_wrong_options_are_named(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Lidar(**wrong)
