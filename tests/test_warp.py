"""MuJoCo Warp in place of our own physics: what is asked of it beside the tasks' own tests (test_tasks.py)."""

import sys

import jax
import jax.numpy as jnp
import mujoco
import numpy as np
import pytest

import mjx_safety
from mjx_safety import AutoReset
from tests.conftest import actions

pytest.importorskip("warp")


@pytest.fixture(scope="module")
def engines():
    """A task with a random number of physics steps among gremlins and buttons, in both engines."""
    return {impl: mjx_safety.make("PointButton2", impl=impl, frame_skip_p=0.6) for impl in ("jax", "warp")}


def test_both_take_the_same_number_of_physics_steps(engines):
    states = {}
    for impl, env in engines.items():
        state = jax.jit(jax.vmap(env.reset))(jax.random.split(jax.random.key(0), 8))
        step = jax.jit(jax.vmap(env.step))
        for action in actions(1, 3, 8):
            state = step(state, action)
        states[impl] = state
    ours, warp = states["jax"], states["warp"]

    assert len(np.unique(np.asarray(warp.physics.time))) > 1
    np.testing.assert_allclose(warp.physics.qpos, ours.physics.qpos, atol=1e-4)
    # A gremlin begins with its lower side on the floor: whether the two touch is left to rounding, and worth 0.8 mm.
    gremlins = (state.physics.boxes["gremlins"].pos for state in (warp, ours))
    np.testing.assert_allclose(*gremlins, atol=2e-3)
    np.testing.assert_allclose(warp.obs, ours.obs, atol=0.02)


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


@pytest.mark.parametrize("task_id", ["PointPush2", "PointButton2", "CarGoal1"])
def test_it_counts_the_contacts_that_the_default_counts(task_id):
    told = []
    for impl in ("jax", "warp"):
        env = mjx_safety.make(task_id, impl=impl)
        state = jax.eval_shape(env.reset, jax.random.key(0))
        solid = {kind.name: jnp.zeros((kind.num, 2)) for kind in env.task.objects if kind.num and kind.obstacle()}
        _, motion = jax.eval_shape(env.physics.step, state.physics, jnp.zeros(2), solid)
        told.append(jax.tree.map(jnp.shape, motion.contacts))
    assert told[0] == told[1]


def test_it_must_be_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "warp", None)
    monkeypatch.delitem(sys.modules, "mjx_safety.warp_physics", raising=False)
    with pytest.raises(ImportError, match=r"impl='warp' needs MuJoCo Warp.*pip install -e '\.\[warp\]'"):
        mjx_safety.make("PointGoal1", impl="warp")


def test_unknown_engines_name_the_nearest():
    with pytest.raises(ValueError, match=r"Unknown impl 'wrap'\. Did you mean 'warp'\? Known: jax, warp\."):
        mjx_safety.make("PointGoal1", impl="wrap")


@pytest.mark.parametrize("task_id", ["PointGoal2", "PointButton2", "CarPush2", "DoggoGoal2", "DoggoPush2"])
def test_there_is_room_for_the_contacts_of_a_heap(task_id):
    """Everything thrown together, by C MuJoCo on the same model: two thirds of the room is enough."""
    env = mjx_safety.make(task_id, impl="warp")
    model, heights = env.physics.scene, {kind.name: kind.height for kind in env.task.objects}
    data, rng = mujoco.MjData(model), np.random.default_rng(0)
    for body in range(1, model.nbody):
        name = model.body(body).name.removesuffix("_target").rstrip("0123456789")
        at = [*rng.uniform(-0.5, 0.5, 2), heights.get(name, 0.0)]
        if model.body_mocapid[body] >= 0:
            data.mocap_pos[model.body_mocapid[body]] = at
        elif name in heights:
            data.joint(model.body(body).name).qpos[:3] = at
    contacts, rows = 0, 0
    for _ in range(300):
        mujoco.mj_step(model, data)
        if data.time > 0.4:  # things have moved out of each other
            contacts, rows = max(contacts, data.ncon), max(rows, data.nefc)

    assert 5 < contacts < env.physics.num_contacts * 2 / 3
    assert 50 < rows < env.physics.num_rows * 2 / 3
