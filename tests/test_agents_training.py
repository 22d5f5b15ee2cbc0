"""The trainer on a toy environment: statistics, learning, fleets, determinism, stop and resume."""

import contextlib
import dataclasses
import functools
import json
import os
import shutil
import signal
import time
import types
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import agents
from agents import networks, normalizer, runner
from agents.checkpoint import Checkpoints
from agents.loop import METRICS, Trainer, make_fleet
from agents.mesh import compile_on, make_mesh
from agents.progress import Reporter
from tests.test_readme import BLOCKS as README_BLOCKS
from tests.toy_env import ToyEnv, ToyTask, on_one_device
from tests.train_toy import checkpointed
from tests.train_toy import start as start_process

SMALL = agents.preset(
    "cpu",
    num_envs=16,
    num_groups=1,
    num_steps=16,
    total_steps=16 * 16 * 8,
    num_epochs=2,
    num_minibatches=4,
    hidden_sizes=(16, 16),
    cost_limits=(5.0,),
    updates_per_chunk=2,
    eval_episodes=0,
    video_steps=0,
)


@functools.cache
def compiled(config: agents.Config, **task):
    """The trainer's parts, compiled for one device."""
    trainer = Trainer(ToyEnv(ToyTask(**task)), config)
    return types.SimpleNamespace(
        **{name: on_one_device(getattr(trainer, name)) for name in ("init", "update", "_act", "_estimate")}
    )


def start(config: agents.Config = SMALL, **task):
    """The trainer's compiled parts, its single agent's initial state and settings."""
    keys, hypers = make_fleet(config)
    hyper = jax.tree.map(lambda x: x[0], hypers)
    return compiled(config, **task), compiled(config, **task).init(keys[0], hyper), hyper


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """The run directory of an uninterrupted run of SMALL."""
    return agents.train(ToyEnv(), SMALL, run_dir=tmp_path_factory.mktemp("whole") / "run", progress=False).run_dir


def metrics_text(run_dir: Path) -> str:
    return (run_dir / "metrics.jsonl").read_text()


# ---------------------------------------------------------------------------------------------------- statistics


@pytest.mark.parametrize("terminate", [False, True])
def test_episode_statistics_are_recounted_from_the_raw_steps(terminate):
    """Cost estimates use this update's batch alone, and no episode's total leaks into the next one."""
    length = 20  # an episode spans updates, and an update spans episode ends
    trainer, state, hyper = start(num_steps=length, terminate_at_goal=terminate)
    totals, lengths = np.zeros((3, SMALL.num_envs)), np.zeros(SMALL.num_envs, int)
    counted, total_cost, terminated = 0, 0.0, 0.0
    for number in range(1, 7):
        _, steps = trainer._act(state, hyper, jax.random.split(state.key, 3)[1])
        state, metrics = trainer.update(state, hyper)
        finished = []
        steps = jax.tree.map(lambda x: x[:, 0], steps)  # the one group
        for t in range(SMALL.num_steps):
            totals += [steps.reward[t], steps.cost[t], steps.goal_met[t]]
            lengths += 1
            ended = np.asarray(steps.terminated[t] | steps.truncated[t])
            whole_episode = ended & (np.asarray(steps.terminated[t]) | (lengths == length))
            finished += list(totals[:, whole_episode].T)
            totals[:, ended], lengths[ended] = 0.0, 0
        expected = np.sum(finished, 0) if finished else np.zeros(3)
        assert metrics["episodes"] == len(finished)
        for name, value in zip(("episode_return", "episode_cost", "episode_goals"), expected, strict=True):
            np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-4)
        ends = np.asarray(steps.terminated).mean()
        lasts = min(length, 1 / np.asarray(steps.terminated | steps.truncated).mean()) if terminate else length
        np.testing.assert_allclose(metrics["cost_estimate"], lasts * np.mean(steps.cost), rtol=1e-5)
        np.testing.assert_allclose(metrics["return_estimate"], lasts * np.mean(steps.reward), rtol=1e-4, atol=1e-5)
        terminated += ends
        counted, total_cost = counted + len(finished), total_cost + np.sum(steps.cost)
        np.testing.assert_allclose(metrics["cost_rate"], total_cost / (number * SMALL.batch_size), rtol=1e-5)
    assert counted > 10
    assert total_cost > 0
    assert (terminated > 0) == terminate


def test_multiplier_follows_the_estimate_of_its_own_update():
    trainer, state, hyper = start()
    for _ in range(3):
        error, integral = state.multiplier.error, state.multiplier.integral
        state, metrics = trainer.update(state, hyper)
        dt = SMALL.batch_size / 32_768
        violation = (metrics["cost_estimate"] - 5.0) / 10.0
        np.testing.assert_allclose(state.multiplier.integral, integral + hyper.pid_ki * violation * dt, rtol=1e-5)
        np.testing.assert_allclose(state.multiplier.error, 0.9**dt * error + (1 - 0.9**dt) * violation, atol=1e-6)
        assert metrics["multiplier"] == state.multiplier.multiplier


def test_first_batch_is_normalised_by_nothing_and_then_by_what_was_seen():
    trainer, state, hyper = start()
    _, rollout = trainer._act(state, hyper, jax.random.split(state.key, 3)[1])
    after, _ = trainer.update(state, hyper)
    assert state.normalizer.count == 0
    np.testing.assert_allclose(after.normalizer.mean, np.mean(rollout.obs, (0, 1, 2)), atol=1e-5)
    np.testing.assert_allclose(after.normalizer.var, np.var(rollout.obs, (0, 1, 2)), atol=1e-5)
    plain = dataclasses.replace(SMALL, normalize_obs=False)
    trainer, state, hyper = start(plain)
    after, _ = trainer.update(state, hyper)
    assert after.normalizer.count == 0


def test_advantages_bootstrap_from_the_observation_before_the_reset():
    trainer, state, hyper = start(num_steps=4)
    _, rollout = trainer._act(state, hyper, jax.random.key(1))
    batch, _ = trainer._estimate(state, rollout, hyper)
    stats = state.normalizer
    values, next_values = (
        networks.mlp(state.params["cost_value"], normalizer.normalize(obs, stats.mean, stats.std))[..., 0]
        for obs in (rollout.obs, rollout.final_obs)
    )
    expected, after = np.zeros_like(values), 0.0
    for t in reversed(range(SMALL.num_steps)):
        delta = rollout.cost[t] + 0.99 * next_values[t] - values[t]  # episodes only ever end by the clock here
        after = delta + 0.99 * 0.97 * np.where(rollout.truncated[t], 0.0, after)
        expected[t] = after
    assert np.asarray(rollout.truncated).sum() >= 3 * SMALL.num_envs
    np.testing.assert_allclose(batch.cost_target.ravel(), (expected + values).ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(batch.cost_advantage.ravel(), (expected - expected.mean()).ravel(), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose([jnp.mean(batch.advantage), jnp.std(batch.advantage)], [0, 1], atol=1e-4)


# ------------------------------------------------------------------------------------------------------ learning


def largest_change(before, after) -> float:
    return max(float(jnp.max(jnp.abs(x - y))) for x, y in zip(*map(jax.tree.leaves, (before, after)), strict=True))


@pytest.mark.parametrize(("target_kl", "steps"), [(1e-12, 1), (1e12, 8)])
def test_kl_mask_freezes_the_policy_but_not_the_critics(target_kl, steps):
    config = dataclasses.replace(SMALL, algorithm="ppo_lagrangian", target_kl=target_kl)
    trainer, state, hyper = start(config)
    after, metrics = trainer.update(state, hyper)
    assert metrics["policy_steps"] == steps  # the first step is taken at a divergence of zero
    policy, value = (largest_change(state.params[name], after.params[name]) for name in ("policy", "value"))
    assert policy > 0.5 * config.lr
    assert (policy < 1.01 * config.lr) == (steps == 1)  # one step of Adam moves no weight further
    assert value > 2 * config.critic_lr
    assert after.opt_state["policy"].count == steps
    assert after.opt_state["value"].count == 8


def test_learns_and_keeps_the_limit(tmp_path):
    """Two agents in one program: the one that may pay little pays less, and both get better at reaching goals."""
    config = agents.preset(
        "cpu",
        num_envs=64,
        num_steps=32,
        total_steps=64 * 32 * 70,
        lr=1e-3,
        critic_lr=1e-3,
        cost_limits=(2.0, 1000.0),
        pid_kp=2.0,
        pid_ki=1.0,
        multiplier_init=0.5,
        updates_per_chunk=70,
        eval_episodes=50,
        video_steps=0,
    )
    result = agents.train(ToyEnv(), config, run_dir=tmp_path / "run", progress=False)
    late = {name: np.nanmean(values[-15:], 0) for name, values in result.metrics.items()}
    assert np.nanmean(result.metrics["return_estimate"][:5]) < 2.0
    assert late["return"][1] > 5.0
    assert late["return"][0] > 3.0
    assert late["cost"][0] < 3.0 < 4.0 < late["cost"][1]
    assert late["multiplier"][0] > 0.3
    assert late["multiplier"][1] == 0.0
    for agent, row in enumerate(result.evaluation):
        np.testing.assert_allclose(row["stochastic"]["cost"], late["cost"][agent], rtol=0.4, atol=1.5)
        np.testing.assert_allclose(row["stochastic"]["return"], late["return"][agent], rtol=0.4, atol=1.0)
        assert row["stochastic"]["length"] == row["deterministic"]["length"] == 50


def test_fleet_equals_single_runs(tmp_path):
    trainer = Trainer(ToyEnv(), SMALL)
    keys, hypers = make_fleet(dataclasses.replace(SMALL, seeds=(0, 7), cost_limits=(5.0, 10.0)))
    init, update = on_one_device(jax.vmap(trainer.init)), on_one_device(jax.vmap(trainer.update))
    fleet, log = init(keys, hypers), []
    for _ in range(3):
        fleet, metrics = update(fleet, hypers)
        log.append(metrics)
    for agent in (0, 3):
        hyper = jax.tree.map(lambda x, agent=agent: x[agent], hypers)
        state = compiled(SMALL).init(keys[agent], hyper)
        for together in log:
            state, alone = compiled(SMALL).update(state, hyper)
            for name, value in alone.items():
                np.testing.assert_allclose(together[name][agent], value, rtol=2e-3, atol=2e-4, err_msg=name)


# ------------------------------------------------------------------------------------------------ reproducibility


def test_chunk_is_traced_once():
    traces = []

    class Counted(Trainer):
        def chunk(self, *args):
            traces.append(1)
            return super().chunk(*args)

    keys, hypers = make_fleet(SMALL)
    init, chunk = compile_on(make_mesh(1, 1), Counted(ToyEnv(), SMALL))
    states, metrics = chunk(jax.tree.map(jnp.copy, init(keys, hypers)), hypers, jnp.int32(2))
    assert set(metrics) == set(METRICS)
    chunk(states, hypers, jnp.int32(1))
    assert len(traces) == 1


def test_metrics_file(whole):
    rows = [json.loads(line) for line in metrics_text(whole).splitlines()]
    assert [row["update"] for row in rows] == list(range(1, 9))
    assert [row["env_steps"] for row in rows] == [256 * i for i in range(1, 9)]
    for row in rows:
        assert (row["return"] is None) == (row["cost"] is None) == (row["episodes"] == 0)
    assert rows[0]["episodes"] == 0  # no episode of 50 steps fits into the first 16
    assert rows[-1]["episodes"] > 0


@pytest.mark.parametrize("updates_per_chunk", [1, 3])
def test_chunk_size_has_no_influence(whole, tmp_path, updates_per_chunk):
    config = dataclasses.replace(SMALL, updates_per_chunk=updates_per_chunk)
    run = agents.train(ToyEnv(), config, run_dir=tmp_path / "run", progress=False)
    assert metrics_text(run.run_dir) == metrics_text(whole)
    for name, array in np.load(whole / "policy.npz").items():
        np.testing.assert_array_equal(np.load(run.run_dir / "policy.npz")[name], array)


def stopped_run(run_dir: Path, monkeypatch, after: int) -> None:
    """Training that is interrupted once `after` updates are reported."""

    def show(self, rows, speed):
        if rows[0]["update"] == after:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "show", show)
        with pytest.raises(KeyboardInterrupt):
            agents.train(ToyEnv(), SMALL, run_dir=run_dir, progress=False)
    assert len(metrics_text(run_dir).splitlines()) == after


def resume(run_dir: Path) -> str:
    return metrics_text(agents.train(ToyEnv(), SMALL, run_dir=run_dir, resume=True, progress=False).run_dir)


def test_resume_ends_with_the_same_metrics(whole, tmp_path, monkeypatch):
    stopped_run(tmp_path / "run", monkeypatch, after=4)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"update": 5, "env_steps": 1280}\n{"update": 6, "env_st')  # killed while it wrote the next rows
    with (tmp_path / "run" / "timing.jsonl").open("a") as file:
        file.write('{"update": 6, "sec')
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert resume(tmp_path / "run") == metrics_text(whole)
        assert resume(tmp_path / "run") == metrics_text(whole)  # nothing left to do
    timing = (tmp_path / "run" / "timing.jsonl").read_text().splitlines()
    assert [json.loads(row)["update"] for row in timing] == [2, 4, 6, 8]


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def garble(path: Path) -> None:
    path.write_bytes(bytes(byte ^ 0xFF for byte in path.read_bytes()))


@pytest.mark.parametrize("damage", [truncate, garble, Path.unlink])
def test_damaged_newest_checkpoint_is_skipped(whole, tmp_path, monkeypatch, damage):
    stopped_run(tmp_path / "run", monkeypatch, after=6)
    newest = tmp_path / "run" / "checkpoints" / "6"
    for path in (newest / "state").rglob("*"):
        if path.is_file() and path.parent.name == "d":  # where the arrays are
            damage(path)
    with pytest.warns(UserWarning, match=f"skipping damaged checkpoint {newest}"):
        assert resume(tmp_path / "run") == metrics_text(whole)
    assert (tmp_path / "run" / "checkpoints" / "damaged-6" / "state").is_dir()


def test_a_run_without_readable_checkpoints_is_left_as_it_is(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    stopped_run(run_dir, monkeypatch, after=4)
    for path in (run_dir / "checkpoints").rglob("*"):
        if path.is_file() and path.parent.name == "d":
            truncate(path)
    before = metrics_text(run_dir), checkpointed(run_dir)
    for _ in range(2):  # nothing that the first attempt does lets the second begin anew
        with pytest.raises(ValueError, match=f"no checkpoint in {run_dir / 'checkpoints'} can be read .4: .*; 2: "):
            resume(run_dir)
        assert (metrics_text(run_dir), checkpointed(run_dir)) == before == (before[0], [2, 4])
        assert len(before[0].splitlines()) == 4


def test_a_checkpoint_of_another_environment_or_version_is_refused(tmp_path, monkeypatch):
    run_dir = tmp_path / "run"
    stopped_run(run_dir, monkeypatch, after=4)
    before = metrics_text(run_dir)
    with (
        warnings.catch_warnings(action="error", category=UserWarning),
        pytest.raises(
            ValueError,
            match=r"checkpoints/4 was made by another environment or version: .*, 4, 16\] there but .*, 5, 16\]",
        ),
    ):
        agents.train(ToyEnv(observation_size=5), SMALL, run_dir=run_dir, resume=True, progress=False)
    assert metrics_text(run_dir) == before
    assert checkpointed(run_dir) == [2, 4]


def test_resume_before_the_first_checkpoint(whole, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Checkpoints, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            agents.train(ToyEnv(), SMALL, run_dir=tmp_path / "run", progress=False)
    assert len(metrics_text(tmp_path / "run").splitlines()) == 2
    assert resume(tmp_path / "run") == metrics_text(whole)


def test_resume_after_sigkill(whole, tmp_path):
    """Killed while it wrote the second checkpoint, or soon after."""
    process = start_process(tmp_path / "run", SMALL, devices=1, pause=1.0)
    rows = tmp_path / "run" / "metrics.jsonl"
    while process.poll() is None and not (rows.exists() and rows.read_text().count("\n") >= 4):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.returncode == -signal.SIGKILL
    assert 0 < max(checkpointed(tmp_path / "run")) < SMALL.num_updates
    assert resume(tmp_path / "run") == metrics_text(whole)


@pytest.mark.parametrize("damage", [truncate, garble, Path.unlink])
def test_no_damage_to_a_checkpoint_goes_unnoticed(tmp_path, damage):
    """Whichever file it is, either what was saved comes back, or the checkpoint before it, with a warning."""

    def state(number: int) -> dict:
        return {"x": number * np.arange(5000, dtype=np.float32), "key": jax.random.split(jax.random.key(number), 3)}

    template = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), state(0))
    with contextlib.closing(Checkpoints(tmp_path / "saved")) as checkpoints:
        for number in (1, 2):
            checkpoints.save(number, state(number))
    names = [path.relative_to(tmp_path / "saved") for path in (tmp_path / "saved" / "2").rglob("*") if path.is_file()]
    noticed = 0
    for i, name in enumerate(names):
        directory = tmp_path / str(i)
        shutil.copytree(tmp_path / "saved", directory)
        damage(directory / name)
        with warnings.catch_warnings(record=True) as caught, contextlib.closing(Checkpoints(directory)) as checkpoints:
            warnings.simplefilter("always")
            restored = checkpoints.restore_latest(template)
        warned = any(f"skipping damaged checkpoint {directory / '2'}" in str(warning.message) for warning in caught)
        expected = state(1 if warned else 2)
        np.testing.assert_array_equal(restored["x"], expected["x"])
        np.testing.assert_array_equal(restored["key"], jax.random.key_data(expected["key"]))
        noticed += warned
    assert noticed >= 3


def test_divergence_stops_with_the_state_saved(tmp_path):
    """Of four agents in one program, only those that diverged are named."""
    config = dataclasses.replace(SMALL, seeds=(3, 4), sweep={"critic_lr": (1e-3, 1e38)})
    with pytest.raises(
        FloatingPointError, match=r"training diverged at update \d .*try a smaller critic_lr or target_kl"
    ) as stop:
        agents.train(ToyEnv(), config, run_dir=tmp_path / "run", progress=False)
    assert "(seed 3, cost limit 5, critic_lr 1e+38; seed 4, cost limit 5, critic_lr 1e+38)" in str(stop.value)
    assert (tmp_path / "run" / "diverged" / "2").is_dir()
    assert not any((tmp_path / "run" / "checkpoints").iterdir())
    assert "NaN" not in metrics_text(tmp_path / "run")
    last = json.loads(metrics_text(tmp_path / "run").splitlines()[-1])
    assert last["critic_lr"] == 1e38
    assert last["value_loss"] is None


@pytest.mark.parametrize("spoiled", ["params", "normalizer"])
def test_a_checkpoint_is_sound_as_a_whole(tmp_path, spoiled):
    """The last update may spoil what no metric shows yet; then its state is no checkpoint."""
    config = dataclasses.replace(SMALL, seeds=(3, 4))
    keys, hypers = make_fleet(config)
    states = compile_on(make_mesh(1, 1), Trainer(ToyEnv(), config)).init(keys, hypers)
    metrics = {name: np.zeros((2, 2), np.float32) for name in METRICS}
    runner._stop_if_diverged(metrics, 4, 2, config, states, tmp_path)

    def spoil(x):
        return x.at[1].set(jnp.nan)

    states = states.replace(**{spoiled: jax.tree.map(spoil, getattr(states, spoiled))})
    with pytest.raises(FloatingPointError, match=rf"at update 6 \(seed 4, cost limit 5\): {spoiled} not finite"):
        runner._stop_if_diverged(metrics, 4, 2, config, states, tmp_path)
    assert (tmp_path / "diverged" / "6").is_dir()


# --------------------------------------------------------------------------------------------------------- policy


def test_loaded_policy_is_the_trained_one(tmp_path):
    (ten_lines,) = (block for block in README_BLOCKS if "def act(" in block)
    assert len([line for line in ten_lines.splitlines() if line.strip()]) <= 10
    names: dict = {}
    exec(ten_lines, names)
    numpy_act = names["act"]
    config = dataclasses.replace(SMALL, seeds=(0, 7), total_steps=3 * SMALL.batch_size)
    result = agents.train(ToyEnv(), config, run_dir=tmp_path / "run", progress=False)
    keys, hypers = make_fleet(config)
    template = jax.eval_shape(compile_on(make_mesh(1, 1), Trainer(ToyEnv(), config)).init, keys, hypers)
    trained = Checkpoints(result.run_dir / "checkpoints").restore_latest(template)
    obs = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    key = jax.random.key(3)
    for agent in range(2):
        state = jax.tree.map(lambda x, agent=agent: x[agent], trained)
        seen = normalizer.normalize(obs, np.asarray(state.normalizer.mean), np.asarray(state.normalizer.std))
        expected = networks.mlp(state.params["policy"]["mean"], jnp.array(seen))
        policy = agents.load_policy(result.run_dir, agent)
        assert isinstance(policy(obs), np.ndarray)
        assert isinstance(policy(jnp.array(obs)), jax.Array)
        for action in (policy(obs), policy(jnp.array(obs)), jax.jit(policy)(obs), jax.vmap(policy)(jnp.array(obs))):
            np.testing.assert_allclose(action, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(policy(obs[0]), expected[0], rtol=1e-4, atol=1e-6)
        noise = np.exp(state.params["policy"]["log_std"]) * np.asarray(jax.random.normal(key, (5, 2)))
        np.testing.assert_allclose(policy(obs, key), expected + noise, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(policy(jnp.array(obs), key), expected + noise, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(numpy_act(result.run_dir / "policy.npz", obs, agent), policy(obs), rtol=1e-6)
    np.testing.assert_array_equal(result.policy(obs), agents.load_policy(result.run_dir)(obs))
    with pytest.raises(ValueError, match=r"expects observations of shape \[..., 4\], got \(5, 3\)"):
        policy(obs[:, :3])
    with pytest.raises(ValueError, match=r"holds 2 agent\(s\), numbered from 0; there is no agent 2"):
        agents.load_policy(result.run_dir, 2)
    with pytest.raises(FileNotFoundError, match="no trained policy in"):
        agents.load_policy(tmp_path)
