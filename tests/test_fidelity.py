"""Every task beside recordings of the original: observation, reward, cost, success, and where things end."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from tests.conftest import compiled

# By robot. The Point is exact; the Car feels its wheels' contacts; the Doggo's legs make small errors grow.
REWARD = {"Point": 1e-3, "Car": 2e-3, "Doggo": 2e-2}  # 90 % of first steps
COST = {"Point": 0.985, "Car": 0.985, "Doggo": 0.96}  # share of steps that agree
WAY = {"Point": (2e-5, 1e-3), "Car": (1e-4, 8e-3), "Doggo": (2e-3, 6e-2)}  # metres after 1 and 10 steps, median
MOVED = 0.02  # metres, median of boxes that moved by 5 cm


@pytest.fixture(params=mjx_safety.registered(), scope="module")
def played(request, windows):
    """Every recorded window of a task, played from the recorded world with the recorded actions."""
    env = compiled(request.param).env
    recorded = windows[request.param]
    world = {name.removeprefix("world."): jnp.asarray(x) for name, x in recorded.items() if name.startswith("world.")}

    @jax.jit
    @jax.vmap
    def play(world, actions, key):
        state = env.set_world(world, key)

        def body(state, action):
            state = env.step(state, action)
            return state, (state, env.get_world(state))

        return state.obs, jax.lax.scan(body, state, actions)[1]

    keys = jax.random.split(jax.random.key(0), len(recorded["action"]))
    obs, (states, worlds) = play(world, jnp.asarray(recorded["action"]), keys)
    before_goal = np.cumsum(recorded["goal_met"], 1) - recorded["goal_met"] == 0  # the next goal is random
    return env, recorded, np.asarray(obs), states, worlds, before_goal


def felt(env) -> np.ndarray:
    """Entries that feel the contact forces of the moment, which a world does not hold: bool [observation_size]."""
    entries = np.zeros(env.observation_size, bool)
    for name, place in env.observation_slices.items():
        entries[place] = name == "accelerometer" or name.startswith("touch")
    return entries


def test_first_observation_is_the_recorded_one(played):
    env, recorded, obs, *_ = played
    np.testing.assert_allclose(obs[:, ~felt(env)], recorded["obs"][:, 0, ~felt(env)], atol=2e-3)


def test_observation_after_a_step_is_the_recorded_one(played):
    env, recorded, _, states, _, before_goal = played
    same = before_goal[:, 1]
    error = np.abs(np.asarray(states.obs)[same, 0] - recorded["obs"][same, 1])
    robot = env.task.robot.name
    assert np.quantile(error[:, ~felt(env)], 0.9) < {"Point": 2e-3, "Car": 2e-3, "Doggo": 0.2}[robot]
    # Accelerations jump with every contact.
    assert np.median(error[:, felt(env)]) < {"Point": 1e-3, "Car": 0.05, "Doggo": 0.5}[robot]


def test_rewards_are_the_recorded_ones(played):
    env, recorded, _, states, *_ = played
    error = np.abs(np.asarray(states.reward) - recorded["reward"])[:, 0]
    assert np.quantile(error, 0.9) < REWARD[env.task.robot.name]


def test_goals_are_met_when_recorded(played):
    env, recorded, _, states, _, before_goal = played
    agree = np.asarray(states.goal_met)[before_goal] == (recorded["goal_met"][before_goal] > 0)
    assert agree.mean() >= (0.98 if env.task.robot.name == "Doggo" else 0.99)


def test_robot_ends_where_recorded(played):
    env, recorded, _, _, worlds, _ = played
    error = np.linalg.norm(np.asarray(worlds["robot_pos"])[:, [0, -1]] - recorded["after.robot_pos"], axis=-1)
    assert (np.median(error, axis=0) < WAY[env.task.robot.name]).all()


def test_costs_are_the_recorded_ones(played):
    env, recorded, _, states, *_ = played
    least = COST[env.task.robot.name]
    assert (np.asarray(states.cost) == recorded["cost"]).mean() >= least
    assert {name for name in recorded if name.startswith("cost_")} <= set(states.costs)
    if env.task.robot.name == "Point" and "cost_hazards" in recorded:
        np.testing.assert_array_equal(np.asarray(states.costs["cost_hazards"]), recorded["cost_hazards"])


@pytest.mark.parametrize("kind", ["vases", "box"])
def test_pushed_things_end_where_recorded(played, kind):
    _, recorded, _, _, worlds, _ = played
    if f"after.{kind}_pos" not in recorded:
        pytest.skip(f"no {kind}")
    start, end = recorded[f"world.{kind}_pos"][..., :2], recorded[f"after.{kind}_pos"][..., :2]
    moved = np.linalg.norm(end - start, axis=-1) > 0.05
    error = np.linalg.norm(np.asarray(worlds[f"{kind}_pos"])[:, -1, ..., :2] - end, axis=-1)
    assert np.quantile(error[~moved], 0.95) < 0.01
    if moved.sum() < 8:
        pytest.skip(f"only {moved.sum()} of the windows move {kind}")
    assert np.median(error[moved]) < MOVED
