"""Batches with auto-reset: fresh layouts, totals that survive, true last observations, staggered starts."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mjx_safety
from mjx_safety.objectives import Goal
from mjx_safety.objects import Hazards, Placement, Vases
from tests.conftest import actions

NUM_ENVS, EPISODE, STEPS = 6, 10, 45


@pytest.fixture(scope="module")
def history():
    """45 steps of 6 slots with episodes of 10 steps: the first states, and those of every step."""
    # Easy goals and large hazards: something to count in ten steps.
    objects = (Hazards(8, Placement(0.05), size=0.6), Vases(1, constrained=False))
    env = mjx_safety.make("PointGoal1", num_steps=EPISODE, objects=objects, objective=Goal(Placement(0.05), size=0.9))
    venv = mjx_safety.AutoReset(env, NUM_ENVS)
    first = jax.jit(venv.reset)(jax.random.key(0))

    def body(states, action):
        states = venv.step(states, action)
        return states, states

    return env, first, jax.jit(lambda s, a: jax.lax.scan(body, s, a)[1])(first, actions(1, STEPS, NUM_ENVS))


def test_episodes_end_together_without_stagger(history):
    _, _, states = history
    ends = np.asarray(states.truncated)
    assert (ends == (np.arange(1, STEPS + 1) % EPISODE == 0)[:, None]).all()
    assert not np.asarray(states.terminated).any()


def test_every_episode_of_every_slot_has_a_new_layout(history):
    env, first, states = history
    hazards = env.observation_slices["hazards_lidar"]
    starts = [np.asarray(first.places)] + [np.asarray(states.places[t]) for t in range(EPISODE - 1, STEPS, EPISODE)]
    layouts = np.stack(starts).reshape(-1, *first.places.shape[1:])
    assert len(np.unique(layouts.round(4), axis=0)) == len(layouts) == NUM_ENVS * (STEPS // EPISODE + 1)
    shown = np.stack([np.asarray(first.obs)] + [np.asarray(states.obs[t]) for t in range(EPISODE - 1, STEPS, EPISODE)])
    shown = shown[..., hazards].reshape(len(layouts), -1)
    assert len(np.unique(shown.round(4), axis=0)) == len(shown)


def test_totals_of_an_episode_survive_its_reset(history):
    _, _, states = history
    for field, total in (("reward", "episode_return"), ("cost", "episode_cost"), ("goal_met", "episode_goals")):
        values = np.asarray(getattr(states, field), np.float32)
        assert values.sum() > 0, field
        for end in range(EPISODE - 1, STEPS, EPISODE):
            expected = values[end + 1 - EPISODE : end + 1].sum(axis=0)
            np.testing.assert_allclose(getattr(states, total)[end], expected, atol=1e-5)
    np.testing.assert_array_equal(states.episode_length[:, 0], np.arange(STEPS) % EPISODE + 1)


def test_the_last_observation_is_kept(history):
    env, _, states = history
    ended = np.asarray(states.done)
    final, obs = np.asarray(states.final_obs), np.asarray(states.obs)
    np.testing.assert_array_equal(final[~ended], obs[~ended])
    compass = env.observation_slices["velocimeter"]
    assert (np.abs(obs[ended][:, compass]) == 0).all()  # a new episode starts at rest
    assert (np.abs(final[ended][:, compass]).max(axis=1) > 0).all()


def test_a_new_episode_is_a_reset_one(history):
    _, _, states = history
    ends = np.asarray(states.done)
    assert (np.asarray(states.steps)[ends] == 0).all()
    assert (np.asarray(states.physics.time)[ends] == 0).all()
    assert (np.asarray(states.steps)[~ends] > 0).all()


def test_no_beginning_is_handed_out_twice_or_wasted():
    """Slots end a few at a time, so that the bank is used up bit by bit."""
    venv = mjx_safety.AutoReset(mjx_safety.make("PointGoal0", num_steps=10), 150)

    def body(states, action):
        states = venv.step(states, action)
        return states, (states.done, states.places, states.physics.qpos, states.bank.used)

    start = jax.jit(lambda key: venv.reset(key, stagger=True))(jax.random.key(0))
    done, places, qpos, used = jax.jit(lambda s, a: jax.lax.scan(body, s, a)[1])(start, actions(0, 25, 150))
    ended = np.asarray(done)
    assert ((used - np.cumsum(ended.sum(axis=1))) % len(start.bank.starts["steps"]) == 0).all()
    assert (ended.sum(axis=1) > 0).all()
    begun = np.concatenate([np.asarray(places)[ended][:, 1], np.asarray(qpos)[ended]], axis=1)
    assert len(np.unique(begun.round(5), axis=0)) == len(begun) > 300


def test_staggered_slots_end_at_different_times():
    env = mjx_safety.make("PointGoal0", num_steps=50)
    venv = mjx_safety.AutoReset(env, 64)
    states = jax.jit(lambda key: venv.reset(key, stagger=True))(jax.random.key(0))
    assert len(np.unique(states.steps)) > 20
    assert np.asarray(states.steps).max() < 50

    def body(states, action):
        states = venv.step(states, action)
        return states, (states.truncated, states.episode_length)

    ended, length = jax.jit(lambda s, a: jax.lax.scan(body, s, a)[1])(states, actions(2, 50, 64))
    assert (np.asarray(ended).sum(axis=0) == 1).all()
    first = np.asarray(length)[np.asarray(ended)]
    assert first.min() < 20
    assert first.max() <= 50


def test_staggered_slots_see_how_much_of_the_episode_is_over():
    env = mjx_safety.make("PointGoal0", num_steps=50, remaining=True)
    states = jax.jit(lambda key: mjx_safety.AutoReset(env, 8).reset(key, stagger=True))(jax.random.key(0))
    seen = states.obs[:, env.observation_slices["remaining"]][:, 0]
    np.testing.assert_allclose(seen, np.asarray(states.steps) / 50, rtol=1e-6)
    np.testing.assert_array_equal(states.final_obs, states.obs)


def test_batches_of_batches_equal_batches():
    env = mjx_safety.make("PointGoal1", num_steps=3)  # the yaw servo magnifies rounding tenfold a step
    venv = mjx_safety.AutoReset(env, 4)
    lidar = env.observation_slices["goal_lidar"]
    keys = jax.random.split(jax.random.key(5), 3)
    steps = actions(6, 8, 3, 4)

    def play(key, actions):
        def body(states, action):
            states = venv.step(states, action)
            # Without inertial sensors, which feel it most.
            return states, (states.obs[:, lidar], states.reward, states.cost, states.truncated)

        return jax.lax.scan(body, venv.reset(key), actions)[1]

    nested = jax.jit(jax.vmap(play, in_axes=(0, 1), out_axes=1))(keys, steps)
    apart = [jax.jit(play)(key, steps[:, i]) for i, key in enumerate(keys)]
    apart = jax.tree.map(lambda *x: jnp.stack(x, axis=1), *apart)
    chex.assert_trees_all_close(nested, apart, atol=1e-4)


def test_wrong_numbers_are_named():
    with pytest.raises(ValueError, match="num_envs of AutoReset is 0"):
        mjx_safety.AutoReset(mjx_safety.make("PointGoal0"), 0)
    with pytest.raises(TypeError, match=r"AutoReset got 'PointGoal0'; .* mjx_safety.make\('PointGoal0'\)"):
        mjx_safety.AutoReset("PointGoal0", 8)
