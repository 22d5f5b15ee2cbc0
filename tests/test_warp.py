"""MuJoCo Warp in place of our own physics: what is asked of it beside the tasks' own tests (test_tasks.py)."""

import sys

import jax
import mujoco
import numpy as np
import pytest

import mjx_safety
from mjx_safety import AutoReset
from tests.conftest import actions


@pytest.fixture(scope="module")
def engines():
    """A task with a random number of physics steps, and sensors that feel what a robot stands on, in both engines."""
    return {impl: mjx_safety.make("CarRun", impl=impl, frame_skip_p=0.6) for impl in ("jax", "warp")}


def test_both_take_the_same_number_of_physics_steps(engines):
    states = {}
    for impl, env in engines.items():
        state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 8))
        step = jax.jit(jax.vmap(env.step))
        for action in actions(1, 3, 8):
            state = step(state, action)
        states[impl] = state
    jax_, warp = states["jax"], states["warp"]

    assert len(np.unique(np.asarray(warp.physics.time))) > 1
    np.testing.assert_array_equal(warp.physics.time, jax_.physics.time)
    np.testing.assert_allclose(warp.physics.qpos, jax_.physics.qpos, atol=1e-4)
    np.testing.assert_allclose(warp.obs, jax_.obs, atol=0.02)


def test_an_episode_begins_as_with_ours(engines):
    first = {impl: jax.jit(env.reset)(jax.random.key(3)) for impl, env in engines.items()}

    np.testing.assert_array_equal(first["warp"].places, first["jax"].places)
    np.testing.assert_allclose(first["warp"].obs, first["jax"].obs, atol=1e-3)


def test_batches_in_batches_are_one_batch():
    env = mjx_safety.make("PointGoal2", impl="warp")
    states = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 6))
    flat = jax.jit(jax.vmap(env.step))(states, actions(1, 6))
    states, twice = jax.tree.map(lambda x: x.reshape(2, 3, *x.shape[1:]), (states, actions(1, 6)))
    nested = jax.jit(jax.vmap(jax.vmap(env.step)))(states, twice)

    np.testing.assert_allclose(nested.obs.reshape(flat.obs.shape), flat.obs, atol=1e-5)
    np.testing.assert_array_equal(nested.cost.ravel(), flat.cost)


def test_episodes_follow_one_another():
    venv = AutoReset(mjx_safety.make("PointGoal1", impl="warp", num_steps=4), 6)
    states, step = jax.jit(venv.reset)(jax.random.key(0)), jax.jit(venv.step)
    places = [np.asarray(states.places)]
    for action in actions(1, 5, 6):
        states = step(states, action)
        places.append(np.asarray(states.places))

    assert np.isfinite(states.obs).all()
    np.testing.assert_array_equal(places[3], places[0])
    assert (np.abs(places[5] - places[0]).max(axis=(1, 2)) > 0.1).all()


def test_it_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    monkeypatch.delitem(sys.modules, "mjx_safety.warp_physics", raising=False)
    with pytest.raises(ImportError, match=r"impl='warp' needs MuJoCo Warp.*pip install 'mjx_safety\[warp\]'"):
        mjx_safety.make("PointGoal1", impl="warp")


def test_unknown_engines_name_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown impl 'wrap'\. Did you mean 'warp'\? Known: jax, warp\."):
        mjx_safety.make("PointGoal1", impl="wrap")


@pytest.mark.parametrize("task_id", ["PointGoal2", "PointButton2", "PointPush2", "DoggoGoal2", "DoggoPush2"])
def test_there_is_room_for_the_contacts_of_a_heap(task_id):
    """Everything thrown together, by C MuJoCo on the same model: two thirds of the room is enough."""
    physics = mjx_safety.make(task_id, impl="warp").physics
    model = physics.scene
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    data.mocap_pos[:, :2] = rng.uniform(-0.5, 0.5, (model.nmocap, 2))
    for joint in np.flatnonzero(model.jnt_type == mujoco.mjtJoint.mjJNT_FREE):
        if model.joint(joint).name != "robot":
            data.qpos[model.jnt_qposadr[joint] :][:3] = *rng.uniform(-0.5, 0.5, 2), 0.3
    most = 0
    for _ in range(300):
        mujoco.mj_step(model, data)
        most = max(most, data.ncon if data.time > 0.4 else 0)

    assert 5 < most < physics.num_contacts * 2 / 3
    assert data.nefc < physics.num_rows * 2 / 3
