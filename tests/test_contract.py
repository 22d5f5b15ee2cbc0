"""What every registered id promises: sizes and names of the original, pure functions, traced once, no surprises."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from tests.conftest import compiled

SIZES = {  # spec of the original: Point's observations; Car and Doggo add their own sensors
    "Goal0": 28, "Goal1": 60, "Goal2": 60,
    "Button0": 44, "Button1": 76, "Button2": 76,
    "Push0": 44, "Push1": 76, "Push2": 76,
    "Circle": 28, "Run": 12,
}  # fmt: skip
MORE = {"Point": 0, "Car": 12, "Doggo": 44}
ACTIONS = {"Point": 2, "Car": 2, "Doggo": 12}
NUM, STEPS = 3, 25
CONTRACT = [robot + name for robot in ACTIONS for name in SIZES]


def test_the_registered_ids_are_the_original_s():
    assert mjx_safety.registered() == tuple(CONTRACT)
    for task_id in CONTRACT:
        assert mjx_safety.make(f"Safexp-{task_id}-v0").task == mjx_safety.make(task_id).task


@pytest.fixture(params=CONTRACT, scope="module")
def task(request):
    """An id's environment, compiled, and a batch that has taken some steps under random actions."""
    env = compiled(request.param)
    resets = jax.random.split(jax.random.key(0), NUM)
    actions = jax.random.uniform(jax.random.key(1), (STEPS, NUM, env.env.action_size), minval=-1.0, maxval=1.0)
    first = env.resets(resets)
    states = [first]
    for action in actions:
        states.append(env.steps(states[-1], action))
    return request.param, env, states, actions


def test_sizes_and_names_are_the_original_s(task, windows):
    task_id, env, states, _ = task
    robot = next(robot for robot in ACTIONS if task_id.startswith(robot))
    assert env.env.observation_size == SIZES[task_id.removeprefix(robot)] + MORE[robot]
    assert env.env.observation_size == windows[task_id]["obs"].shape[-1]
    assert env.env.action_size == ACTIONS[robot]
    names = list(env.env.observation_slices)
    assert names == sorted(names)
    assert [n.removesuffix("_lidar") for n in names if n.endswith("_lidar")] == sorted(
        {kind.name for kind in env.env.task.objects}
        | ({env.env.task.objective.name} if env.env.task.objective.somewhere else set())
    )
    chex.assert_shape(states[-1].obs, (NUM, env.env.observation_size))


def test_numbers_are_finite_and_typed(task):
    _, _, states, _ = task
    for state in (states[0], states[-1]):
        chex.assert_tree_all_finite(state.replace(key=0))
        chex.assert_type([state.obs, state.reward, state.cost, *state.costs.values()], jnp.float32)
        chex.assert_type([state.terminated, state.truncated, state.goal_met], bool)
    assert not any(leaf.weak_type for leaf in jax.tree.leaves(states[0].replace(key=jnp.zeros(()))))
    assert not np.asarray(states[-1].terminated).any()


def test_an_episode_starts_without_cost_and_with_a_layout_of_its_own(task):
    _, env, states, _ = task
    assert not np.asarray(states[0].cost).any()
    places = np.asarray(states[0].places)
    assert len(np.unique(places.round(6), axis=0)) == NUM
    again = np.asarray(env.resets(jax.random.split(jax.random.key(2), NUM)).places)
    assert np.abs(again - places).max(axis=-1).min() > 0


def test_steps_are_traced_once_and_deterministic(task):
    _, env, states, actions = task
    assert env.steps._cache_size() == env.resets._cache_size() == 1
    again = env.resets(jax.random.split(jax.random.key(0), NUM))
    chex.assert_trees_all_equal(again.replace(key=0), states[0].replace(key=0))
    for action in actions[:3]:
        again = env.steps(again, action)
    chex.assert_trees_all_equal(again.replace(key=0), states[3].replace(key=0))


def test_a_batch_equals_single_environments(task):
    _, env, states, actions = task
    single = jax.tree.map(lambda x: x[1], states[4])
    for t in (4, 5, 6):
        single = env.step(single, actions[t, 1])
    batched = jax.tree.map(lambda x: x[1], states[7])
    chex.assert_trees_all_close(single.replace(key=0), batched.replace(key=0), atol=2e-3, rtol=1e-3)


def test_a_world_continues_as_the_state_it_was_taken_from(task):
    _, env, states, actions = task
    state = states[-1]
    copy = env.set_worlds(env.get_worlds(state), state.key)
    np.testing.assert_array_equal(copy.steps, state.steps)
    np.testing.assert_allclose(copy.measured, state.measured, atol=1e-5)
    for action in actions[:2]:
        state, copy = env.steps(state, action), env.steps(copy, action)
    np.testing.assert_allclose(copy.reward, state.reward, atol=1e-4)
    np.testing.assert_array_equal(copy.cost, state.cost)
    chex.assert_trees_all_close(env.get_worlds(copy), env.get_worlds(state), atol=2e-3, rtol=1e-3)
