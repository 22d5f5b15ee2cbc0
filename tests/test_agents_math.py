"""Advantages, multiplier laws, normaliser, distributions and settings against numbers worked out by hand."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.interpreters.partial_eval import dce_jaxpr

import agents
from agents import lagrange, mesh, networks, normalizer, reduce
from agents.algorithms import ALGORITHMS
from agents.config import CONTINUOUS, label, slug, validate
from agents.gae import gae
from agents.loop import Hyper, Trainer, make_fleet
from tests.toy_env import ToyEnv, hyper

F, T = False, True
GAMMA, LAMBDA = 0.5, 0.5
REWARDS, VALUES, NEXT_VALUES = [1.0, 2.0, 3.0], [4.0, 2.0, 6.0], [2.0, 8.0, 10.0]


# One-step errors are r + 0.5 V' - V = -2, 4, 2, or r - V = 0 in the middle where that step terminates; the trace
# decays by 0.25 a step and does not pass an end.
@pytest.mark.parametrize(
    ("terminated", "truncated", "expected"),
    [
        ([F, F, F], [F, F, F], [-2 + 0.25 * 4.5, 4 + 0.25 * 2, 2]),
        ([F, F, F], [F, T, F], [-2 + 0.25 * 4, 4, 2]),
        ([F, T, F], [F, F, F], [-2, 0, 2]),
        ([F, T, F], [F, T, F], [-2, 0, 2]),
        ([F, F, T], [F, F, F], [-2 + 0.25 * (4 - 0.25 * 3), 4 - 0.25 * 3, -3]),
        ([F, F, F], [F, F, T], [-2 + 0.25 * 4.5, 4 + 0.25 * 2, 2]),
    ],
    ids=["open", "truncated", "terminated", "both", "terminated last", "truncated last"],
)
def test_gae_by_hand(terminated, truncated, expected):
    columns = [jnp.array(x)[:, None] for x in (REWARDS, VALUES, NEXT_VALUES, terminated, truncated)]
    np.testing.assert_allclose(gae(*columns, GAMMA, LAMBDA)[:, 0], expected, rtol=1e-6)


def test_gae_keeps_environments_apart():
    columns = [jnp.stack([jnp.array(x), jnp.array(x)], 1) for x in (REWARDS, VALUES, NEXT_VALUES)]
    terminated, never = jnp.array([[F, F], [T, F], [F, F]]), jnp.zeros((3, 2), bool)
    advantages = gae(*columns, terminated, never, GAMMA, LAMBDA)
    np.testing.assert_allclose(advantages, [[-2, -0.875], [0, 4.5], [2, 2]], rtol=1e-6)


def test_pid_by_hand():
    gains = hyper(pid_kp=0.5, pid_ki=0.02, pid_kd=1.0, pid_ema=0.9, multiplier_init=1.0)
    state = lagrange.init_pid(gains)
    assert state.multiplier == 1.0

    state = lagrange.update_pid(state, jnp.float32(65.0), 32_768, gains)  # error (65 - 25) / 10 = 4
    np.testing.assert_allclose(state.error, 0.4, rtol=1e-5)
    np.testing.assert_allclose(state.integral, 1.08, rtol=1e-5)
    np.testing.assert_allclose(state.multiplier, 0.5 * 0.4 + 1.08 + 1.0 * 0.4, rtol=1e-5)

    state = lagrange.update_pid(state, jnp.float32(5.0), 32_768, gains)  # error -2: the average falls, no D term
    np.testing.assert_allclose(state.error, 0.16, rtol=1e-5)
    np.testing.assert_allclose(state.integral, 1.04, rtol=1e-5)
    np.testing.assert_allclose(state.multiplier, 0.5 * 0.16 + 1.04, rtol=1e-5)


def test_pid_bounds():
    gains = hyper(pid_ki=10.0, multiplier_init=1.0)
    state = lagrange.update_pid(lagrange.init_pid(gains), jnp.float32(0.0), 32_768, gains)
    assert state.integral == 0.0  # no wind-up below zero
    assert state.multiplier == 0.0
    state = lagrange.update_pid(state, jnp.float32(1000.0), 32_768, gains)
    assert state.integral == 100.0
    assert state.multiplier == 100.0


def test_pid_does_not_depend_on_how_steps_are_batched():
    gains, cost = hyper(pid_ki=0.02, pid_ema=0.9), jnp.float32(40.0)
    whole, parts = lagrange.init_pid(gains), lagrange.init_pid(gains)
    for _ in range(3):
        whole = lagrange.update_pid(whole, cost, 8 * 4096, gains)
    for _ in range(24):
        parts = lagrange.update_pid(parts, cost, 4096, gains)
    np.testing.assert_allclose(parts.integral, whole.integral, rtol=1e-5)
    np.testing.assert_allclose(parts.error, whole.error, rtol=1e-5)
    np.testing.assert_allclose(parts.multiplier, whole.multiplier, rtol=2e-2)  # the rise is measured over other spans


def test_adam_by_hand():
    settings = hyper(multiplier="adam", dual_lr=0.05, multiplier_init=1.0)
    state = lagrange.init_adam(settings)
    np.testing.assert_allclose(jax.nn.softplus(state.raw), 1.0, rtol=1e-6)
    raw = math.log(math.e - 1.0)
    # While the sign of the violation is stable, Adam's first steps have length one whatever its size.
    for episode_cost in (26.0, 26.0):
        state = lagrange.update_adam(state, jnp.float32(episode_cost), 30_000, settings)
        raw += 0.05
        np.testing.assert_allclose(state.raw, raw, rtol=1e-4)
        np.testing.assert_allclose(state.multiplier, math.log1p(math.exp(raw)), rtol=1e-4)
    fresh = lagrange.init_adam(settings)
    down = lagrange.update_adam(fresh, jnp.float32(0.0), 60_000, settings)  # twice the steps, twice the way
    np.testing.assert_allclose(down.raw - fresh.raw, -0.1, rtol=1e-4)


@pytest.mark.parametrize("multiplier", [1e-6, 100.0])
def test_adam_starts_at_any_multiplier(multiplier):
    state = lagrange.init_adam(hyper(multiplier="adam", multiplier_init=multiplier))
    np.testing.assert_allclose(jax.nn.softplus(state.raw), multiplier, rtol=1e-5)


def test_margin_by_hand():
    settings = hyper(cpo_margin_lr=0.05)
    state = lagrange.MARGIN.init(settings)
    assert state.multiplier == 0.0
    state = lagrange.MARGIN.update(state, jnp.float32(65.0), 30_000, settings)  # 40 above the limit
    np.testing.assert_allclose(state.multiplier, 2.0, rtol=1e-5)
    state = lagrange.MARGIN.update(state, jnp.float32(5.0), 60_000, settings)  # 20 below it, for twice as long
    np.testing.assert_allclose(state.multiplier, 0.0, atol=1e-6)
    state = lagrange.MARGIN.update(state, jnp.float32(0.0), 30_000, settings)
    assert state.multiplier == 0.0  # no margin above the limit


def merged(stats, batch):
    rows = batch.reshape(-1, 2)
    return normalizer.merge(stats, jnp.float32(len(rows)), jnp.array(rows.mean(0)), jnp.array(rows.var(0)))


def test_normalizer_is_numpy_over_everything_seen():
    rng = np.random.default_rng(0)
    batches = [
        rng.normal([3.0, -1.0], [5.0, 0.3], (n, k, 2)).astype(np.float32) for n, k in ((4, 3), (1, 1), (50, 7), (2, 2))
    ]
    stats = normalizer.init(2)
    for batch in batches:
        stats = merged(stats, batch)
    seen = np.concatenate([batch.reshape(-1, 2) for batch in batches])
    assert stats.count == len(seen)
    np.testing.assert_allclose(stats.mean, seen.mean(0), rtol=1e-4)
    np.testing.assert_allclose(stats.var, seen.var(0), rtol=1e-4)


def test_normalizer_start_floor_and_clip():
    stats = normalizer.init(2)
    obs = jnp.array([3.0, -4.0])
    np.testing.assert_array_equal(normalizer.normalize(obs, stats.mean, stats.std), obs)
    stats = merged(stats, np.array([[1.0, 0.0], [1.0, 100.0]], np.float32))
    normal = normalizer.normalize(jnp.array([1.001, 1e6]), stats.mean, stats.std)
    np.testing.assert_allclose(normal, [0.1, 10.0], rtol=1e-3)  # a constant input is scaled by the floor of 0.01


def test_gaussian_against_samples():
    mean, log_std = jnp.array([0.3, -0.2]), jnp.array([-0.5, 0.1])
    old_mean, old_log_std = jnp.array([0.0, 0.0]), jnp.array([-0.4, 0.0])
    samples = mean + jnp.exp(log_std) * jax.random.normal(jax.random.key(0), (200_000, 2))
    new = networks.log_prob(mean, log_std, samples)
    old = networks.log_prob(old_mean, old_log_std, samples)
    kl = networks.kl_divergence(mean, log_std, old_mean, old_log_std)
    np.testing.assert_allclose(kl, jnp.mean(new - old), atol=0.01)
    np.testing.assert_allclose(networks.entropy(log_std), -jnp.mean(new), atol=0.01)
    standard = networks.log_prob(jnp.zeros(1), jnp.zeros(1), jnp.array([1.0]))
    np.testing.assert_allclose(standard, -0.5 - 0.5 * math.log(2 * math.pi), rtol=1e-6)


def test_networks_start_near_zero_actions():
    params = networks.init_params(jax.random.key(0), 5, 2, (8, 8))
    weights = [weight for weight, _ in params["policy"]["mean"]]
    np.testing.assert_allclose(weights[1].T @ weights[1], 2.0 * np.eye(8), atol=1e-5)
    np.testing.assert_allclose(jnp.linalg.norm(weights[2], axis=0), 0.01, rtol=1e-5)
    assert (params["policy"]["log_std"] == -0.5).all()
    assert params["cost_value"][-1][0].shape == (8, 1)


def test_fleet_is_every_seed_under_every_limit():
    config = agents.Config(seeds=(3, 4), cost_limits=(10.0, 25.0))
    keys, hypers = make_fleet(config)
    assert [(agent["seed"], agent["cost_limit"]) for agent in config.agents] == [(3, 10), (4, 10), (3, 25), (4, 25)]
    np.testing.assert_array_equal(hypers.cost_limit, [10, 10, 25, 25])
    assert (keys == jnp.stack([jax.random.key(seed) for seed in (3, 4, 3, 4)])).all()


def test_swept_settings_multiply_the_fleet():
    config = agents.Config(seeds=(3, 4), cost_limits=(10.0, 25.0), sweep={"lr": [1e-4, 1e-3], "pid_kp": [0.1]})
    _, hypers = make_fleet(config)
    assert len(config.agents) == 8
    assert config.agents[3] == {"seed": 4, "cost_limit": 10.0, "lr": 1e-3, "pid_kp": 0.1}
    np.testing.assert_allclose(hypers.lr, [1e-4, 1e-4, 1e-3, 1e-3] * 2)
    np.testing.assert_allclose(hypers.pid_kp, 0.1)
    np.testing.assert_allclose(hypers.critic_lr, config.critic_lr)
    assert label(config.settings[-1]) == "cost limit 25, lr 0.001, pid_kp 0.1"
    assert slug(config.settings[-1]) == "cost_limit=25,lr=0.001,pid_kp=0.1"


def test_every_continuous_setting_can_be_swept():
    assert {field.name for field in dataclasses.fields(Hyper)} == {"cost_limit", *CONTINUOUS}


@pytest.mark.parametrize(("algorithm", "multiplier"), [*((name, "pid") for name in ALGORITHMS), ("focops", "adam")])
def test_an_algorithm_uses_the_settings_it_says_and_no_other(algorithm, multiplier):
    """Those that two updates' networks depend on, by the program itself."""
    config = agents.Config(
        algorithm, total_steps=64, num_envs=8, num_groups=1, num_steps=8, num_minibatches=2, multiplier=multiplier
    )
    trainer, (keys, hypers) = Trainer(ToyEnv(), config), make_fleet(config)

    def learned(hyper):
        state = trainer.init(keys[0], hyper)
        for _ in range(2):
            state, _ = trainer.update(state, hyper)
        return state.params

    on_one_device = jax.vmap(learned, in_axes=None, axis_name=reduce.AXIS, axis_size=1)
    program = jax.make_jaxpr(on_one_device)(jax.tree.map(lambda x: x[0], hypers)).jaxpr
    _, needed = dce_jaxpr(program, [True] * len(program.outvars))

    names = [field.name for field in dataclasses.fields(Hyper)]
    depends = {name for name, is_needed in zip(names, needed, strict=True) if is_needed}
    assert depends == set(config.used)


WRONG = [
    ({"sweep": {"target_kl": (1e-3, -1.0)}}, "target_kl must be a positive number, got -1.0"),
    ({"sweep": {"target_kl": (1e-3, 1e-3)}}, "sweep needs at least one value of target_kl and no repeats"),
    ({"sweep": {"num_envs": (1, 2)}}, "unknown swept setting 'num_envs': choose one of lr, critic_lr"),
    ({"sweep": {"pid_kip": (1.0,)}}, "unknown swept setting 'pid_kip': .*did you mean 'pid_kp'"),
    ({"num_envs": -1}, "num_envs must be a positive integer, got -1"),
    ({"num_steps": 1.5}, "num_steps must be a positive integer, got 1.5"),
    ({"lr": 0.0}, "lr must be a positive number, got 0.0"),
    ({"critic_lr": math.nan}, "critic_lr must be a positive number, got nan"),
    ({"gamma": 1.1}, "gamma must be a number from 0 to 1, got 1.1"),
    ({"cost_limits": (10.0, 25.0), "algorithm": "trpo"}, "cost_limits is .* but trpo heeds none"),
    ({"cost_limits": (25.0, -1.0)}, "cost_limits must be zero or a positive number, got -1.0"),
    ({"seeds": ()}, "seeds needs at least one value and no repeats"),
    ({"seeds": (1, 1)}, "seeds needs at least one value and no repeats"),
    ({"hidden_sizes": (64, 0)}, "hidden_sizes must be a positive integer, got 0"),
    ({"max_grad_norm": -1.0}, "max_grad_norm must be a positive number, got -1.0"),
    ({"normalize_obs": "yes"}, "normalize_obs must be True or False, got 'yes'"),
    ({"eval_episodes": -1}, "eval_episodes must be zero or a positive integer, got -1"),
    ({"algorithm": "ppo_lagrange"}, "unknown algorithm 'ppo_lagrange': choose one of .*did you mean 'ppo_lagrangian'"),
    ({"num_groups": 3}, "num_groups=3 does not divide num_envs=512: choose another num_envs, or num_groups=1"),
    ({"num_groups": 512, "num_steps": 12}, "num_minibatches=16 does not divide the batch of .* / 512 = 12 steps"),
    ({"multiplier": "pdi"}, "unknown multiplier law 'pdi': choose one of pid, adam; did you mean 'pid'"),
    ({"multiplier": "adam", "multiplier_init": 0.0}, "multiplier_init must be a positive number with the adam law"),
    (
        {"num_envs": 3, "num_groups": 1, "num_steps": 5},
        "num_minibatches=16 does not divide the batch of .* 3 x 5 / 1 = 15 steps",
    ),
    ({"total_steps": 10}, "total_steps=10 is less than one update of .* 32768 steps"),
]


@pytest.mark.parametrize(("settings", "message"), WRONG, ids=["-".join(settings) for settings, _ in WRONG])
def test_wrong_settings(settings, message):
    with pytest.raises(ValueError, match=message):
        validate(agents.Config(**settings))


def test_the_multiplier_moves_as_much_per_update_on_a_gpu():
    cpu, gpu = agents.preset("cpu"), agents.preset("gpu")
    larger = gpu.batch_size / cpu.batch_size

    assert larger == 8
    assert gpu.pid_kp == cpu.pid_kp
    assert gpu.pid_ki * larger == pytest.approx(cpu.pid_ki)
    assert gpu.pid_kd / larger == pytest.approx(cpu.pid_kd)
    assert gpu.pid_ema**larger == pytest.approx(cpu.pid_ema)
    assert gpu.dual_lr * larger == pytest.approx(cpu.dual_lr)
    assert gpu.cpo_margin_lr * larger == pytest.approx(cpu.cpo_margin_lr)


@pytest.mark.parametrize(
    ("num_agents", "num_groups", "num_devices", "expected"),
    [
        (4, 2, 4, (4, 1)),
        (2, 2, 4, (2, 2)),
        (6, 2, 4, (2, 2)),
        (24, 2, 16, (8, 2)),
        (12, 2, 8, (4, 2)),
        (3, 1, 2, (1, 1)),
    ],
)
def test_as_many_devices_as_can_are_used(num_agents, num_groups, num_devices, expected):
    assert mesh.spread(num_agents, num_groups, num_devices) == expected


def test_presets():
    for name in ("cpu", "gpu", "paper"):
        validate(agents.preset(name))
    assert agents.preset("cpu", num_envs=8) == dataclasses.replace(agents.Config(), num_envs=8)
    with pytest.raises(ValueError, match="unknown preset 'gpus': choose one of cpu, gpu, paper; did you mean 'gpu'"):
        agents.preset("gpus")
    with pytest.raises(ValueError, match=r"unknown setting 'num_env': .*did you mean 'num_envs'"):
        agents.preset("cpu", num_env=8)
