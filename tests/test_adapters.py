"""Gymnasium's interface: the same steps as `AutoReset`'s, and what a wrapper of Gymnasium's own makes of them."""

import gymnasium
import jax
import numpy as np
import pytest

import mjx_safety
from mjx_safety.adapters.gymnasium import VectorEnv

NUM_ENVS = 3


@pytest.fixture(scope="module")
def env():
    return mjx_safety.make("PointGoal1", num_steps=4)


@pytest.fixture(scope="module")
def batch(env):
    return VectorEnv(env, NUM_ENVS)


def test_it_steps_as_auto_reset_does(env, batch):
    obs, info = batch.reset(seed=7)
    key = jax.random.key(np.random.default_rng(7).integers(2**31))
    direct = mjx_safety.AutoReset(env, NUM_ENVS)
    states = jax.jit(direct.reset)(key)
    np.testing.assert_array_equal(obs, states.obs)
    assert info == {}
    step, actions, ended = jax.jit(direct.step), np.random.default_rng(0).uniform(-1, 1, (6, NUM_ENVS, 2)), 0
    for action in actions.astype(np.float32):
        obs, reward, terminated, truncated, info = batch.step(action)
        states = step(states, action)
        for ours, theirs in (
            (obs, states.obs),
            (reward, states.reward),
            (terminated, states.terminated),
            (truncated, states.truncated),
            (info["cost"], states.cost),
            (info["cost_hazards"], states.costs["cost_hazards"]),
            (info["goal_met"], states.goal_met),
            (info["final_obs"], states.final_obs),
            (info["_final_obs"], states.done),
        ):
            assert ours.dtype == theirs.dtype
            np.testing.assert_allclose(ours, theirs, atol=1e-6)
        ended += truncated.sum()
        assert (np.abs(obs - info["final_obs"]).max(-1) > 0).tolist() == info["_final_obs"].tolist()
    assert ended == NUM_ENVS


def test_spaces_hold_what_comes_and_goes(batch):
    obs, _ = batch.reset(seed=0)
    assert batch.observation_space.contains(obs)
    assert batch.observation_space.contains(batch.step(batch.action_space.sample())[0])
    assert batch.single_action_space.shape == (2,)


def test_seeds_decide_the_layouts(batch):
    first, again, other = batch.reset(seed=1)[0], batch.reset(seed=1)[0], batch.reset()[0]
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(again, other)


def test_results_stay_as_they_were(batch):
    """Arrays are the caller's, whatever comes after."""
    batch.reset(seed=0)
    obs, reward, *_, info = batch.step(np.ones((NUM_ENVS, 2)))
    kept = obs.copy(), reward.copy(), info["final_obs"].copy()
    for _ in range(3):
        batch.step(np.ones((NUM_ENVS, 2)))
    for now, before in zip((obs, reward, info["final_obs"]), kept, strict=True):
        np.testing.assert_array_equal(now, before)
        now[:] = 0.0


def test_gymnasiums_wrappers_count_whole_episodes(batch):
    wrapped = gymnasium.wrappers.vector.RecordEpisodeStatistics(batch)
    wrapped.reset(seed=3)
    total = np.zeros(NUM_ENVS)
    for _ in range(4):
        *_, truncated, info = (result := wrapped.step(np.ones((NUM_ENVS, 2))))
        total += result[1]
    assert truncated.all()
    np.testing.assert_allclose(info["episode"]["r"], total, rtol=1e-5)
    assert info["episode"]["l"].tolist() == [4] * NUM_ENVS


def test_mistakes_are_named(env, batch):
    with pytest.raises(RuntimeError, match="call reset first"):
        VectorEnv(env, 2).step(np.zeros((2, 2)))
    batch.reset(seed=0)
    with pytest.raises(ValueError, match=r"\(3, 2\)"):
        batch.step(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="num_envs"):
        VectorEnv(env, 0)
