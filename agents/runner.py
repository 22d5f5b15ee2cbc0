"""The host side of a run: compiled chunks, metrics, checkpoints; then evaluation, curves and a video."""

import contextlib
import dataclasses
import time
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

import mjx_safety
from agents import evaluation, run_directory
from agents.checkpoint import Checkpoints
from agents.config import Config, preset, validate
from agents.loop import Trainer, TrainState, make_fleet
from agents.mesh import compile_on, make_mesh
from agents.plots import plot_curves
from agents.policy import Policy, from_state, load_policy, save_policy
from agents.progress import Reporter

if TYPE_CHECKING:
    from mjx_safety import Env

FPS = 30


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes:
        run_dir: where its files are.
        config: its settings.
        metrics: name -> [updates] for one agent, [updates, agents] for several; NaN where no episode finished.
        evaluation: per agent its seed, cost limit, cost rate and a summary per mode; see `agents.evaluation`.
        policy: the (first) agent's policy.
    """

    run_dir: Path
    config: Config
    metrics: dict[str, np.ndarray]
    evaluation: list[dict[str, Any]]
    policy: Policy


def train(
    env: "Env | str",
    config: Config | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> Result:
    """Train agents and evaluate them.

    Args:
        env: a registered id such as "PointGoal1", or an environment.
        config: settings; without any, those of the run to resume, else the preset for this machine (`agents.preset()`).
        run_dir: directory to write; runs/<task>-<time> without one.
        resume: continue the run in `run_dir`; it ends with exactly the metrics of an uninterrupted one.
        progress: print progress and the evaluation.

    Raises:
        TypeError: `env` is no environment or `config` no Config.
        ValueError: a setting is wrong, or the run to resume had other settings.
        OSError: the directory cannot be written, or holds a run and `resume` is False.
        FloatingPointError: training diverged.
    """
    return execute(*prepare(env, config, run_dir, resume), progress=progress)


def prepare(
    env: "Env | str", config: Config | None, run_dir: str | Path | None, resume: bool
) -> tuple["Env", str | None, Config, Path]:
    """Everything that can be refused, before anything is compiled."""
    if resume and config is None and run_dir is not None and (Path(run_dir) / run_directory.CONFIG).exists():
        _, config = run_directory.read_config(Path(run_dir))
    config = preset() if config is None else config
    if not isinstance(config, Config):
        raise TypeError(f"config is {config!r}; it must be an agents.Config, such as agents.preset() gives")
    validate(config)
    task = env if isinstance(env, str) else None
    env = mjx_safety.make(env) if isinstance(env, str) else env
    if not all(hasattr(env, name) for name in ("reset", "step", "task", "observation_size", "action_size")):
        raise TypeError(f"env is {env!r}; it must be a task id such as 'PointGoal1', or an environment")
    if run_dir is None:
        if resume:
            raise ValueError("--resume needs the --run-dir of the run to continue")
        run_dir = Path("runs") / f"{task or 'run'}-{datetime.now():%Y%m%d-%H%M%S}"
    run_dir = Path(run_dir)
    run_directory.open_run(run_dir, task, config, resume)
    return env, task, config, run_dir


def execute(env: "Env", task: str | None, config: Config, run_dir: Path, progress: bool) -> Result:
    """Train, then write the policy, curves, evaluation and video."""
    states = _optimize(env, task, config, run_dir, progress)
    policies = from_state(states)
    save_policy(jax.device_get(policies), run_dir)
    metrics = run_directory.read_metrics(run_dir, len(config.agents))
    plot_curves(metrics, config, run_dir / "curves.png")
    agents = _evaluate(env, task, config, run_dir, policies, progress)
    squeeze = len(config.agents) == 1
    metrics = {name: array[:, 0] if squeeze else array for name, array in metrics.items()}
    if progress:
        print(f"run directory: {run_dir}")
    return Result(run_dir, config, metrics, agents, load_policy(run_dir))


def _optimize(env: "Env", task: str | None, config: Config, run_dir: Path, progress: bool) -> TrainState:
    """Run all updates that are still to do; returns the final states [agents, ...]."""
    keys, hypers = make_fleet(config)
    init, chunk = compile_on(make_mesh(len(keys), config.num_groups), Trainer(env, config))
    metrics_file, timing_file = run_dir / run_directory.METRICS_FILE, run_dir / run_directory.TIMING
    reporter = Reporter(task or "training", config.num_updates * config.batch_size, enabled=progress)

    with contextlib.closing(Checkpoints(run_dir / "checkpoints")) as checkpoints, reporter:
        states = checkpoints.restore_latest(jax.eval_shape(init, keys, hypers))
        done = 0 if states is None else int(states.num_updates[0])
        run_directory.truncate_rows(metrics_file, done * len(config.agents))
        run_directory.truncate_timing(timing_file, done)
        if states is None:
            # Copies: outputs that share a buffer with each other or with an input cannot be donated.
            states = jax.tree.map(jnp.copy, init(keys, hypers))
        states, _ = chunk(states, hypers, jnp.int32(0))  # compiles, so that the speeds below are those of training
        while done < config.num_updates:
            start, count = time.perf_counter(), min(config.updates_per_chunk, config.num_updates - done)
            states, metrics = chunk(states, hypers, jnp.int32(count))
            metrics = jax.device_get(metrics)
            seconds = time.perf_counter() - start
            rows = run_directory.rows_of_chunk(config, done, count, metrics)
            # Rows first: whatever moment the process dies at, no checkpoint is ahead of the metrics.
            run_directory.append_rows(metrics_file, rows)
            _stop_if_diverged(metrics, done, count, config, states, run_dir)
            done += count
            checkpoints.save(done, states)
            speed = count * config.batch_size * len(config.agents) / seconds
            run_directory.append_rows(timing_file, [{"update": done, "seconds": seconds, "steps_per_second": speed}])
            reporter.show(rows[-len(config.agents) :], speed)
    return states


def _stop_if_diverged(
    metrics: dict[str, np.ndarray], done: int, count: int, config: Config, states: TrainState, run_dir: Path
) -> None:
    bad = [name for name, values in metrics.items() if not np.all(np.isfinite(values[:count]))]
    if not bad:
        return
    finite = np.all([np.isfinite(values[:count]) for values in metrics.values()], axis=0)  # [count, agents]
    update, agent = (int(i) for i in np.argwhere(~finite)[0])
    with contextlib.closing(Checkpoints(run_dir / "diverged")) as broken:
        broken.save(done + count, states)
    seed, cost_limit = config.agents[agent]
    raise FloatingPointError(
        f"training diverged at update {done + update + 1} (seed {seed}, cost limit {cost_limit:g}): {', '.join(bad)} "
        f"not finite; the state is in {run_dir / 'diverged'}, the last sound one in {run_dir / 'checkpoints'}; "
        "try a smaller lr or critic_lr"
    )


def _evaluate(
    env: "Env", task: str | None, config: Config, run_dir: Path, policies: Policy, progress: bool
) -> list[dict[str, Any]]:
    """Evaluate every agent, write evaluation.json and video.mp4."""
    if not config.eval_episodes and not config.video_steps:
        return []
    episodes, states = evaluation.run_episodes(
        env, policies, evaluation_key(), max(config.eval_episodes, 1), frames=config.video_steps, config=config
    )
    agents = describe(run_dir, config, episodes) if config.eval_episodes else []
    if agents:
        evaluation.write(run_dir / "evaluation.json", task, agents)
        if progress:
            print(evaluation.report(agents))
    if config.video_steps:
        write_video(env, states, run_dir / "video.mp4")
    return agents


def evaluation_key() -> jax.Array:
    """The layouts agents are evaluated on: the same for every run, and none that a training seed starts from."""
    return jax.random.fold_in(jax.random.key(0), 2**31)


def describe(run_dir: Path, config: Config, episodes: list[dict[str, evaluation.Episodes]]) -> list[dict[str, Any]]:
    """evaluation.json's entry of every agent."""
    cost_rates = run_directory.read_metrics(run_dir, len(config.agents))["cost_rate"][-1]
    return [
        {
            "seed": seed,
            "cost_limit": cost_limit,
            "cost_rate": float(cost_rate),
            **{mode: evaluation.summarize(totals, cost_limit) for mode, totals in modes.items()},
        }
        for (seed, cost_limit), cost_rate, modes in zip(config.agents, cost_rates, episodes, strict=True)
    ]


def write_video(env: "Env", states: Any, path: Path) -> None:
    """Render states [T] to an mp4."""
    frames = mjx_safety.render(env, jax.device_get(states), camera="fixedfar", width=640, height=480)
    mjx_safety.save_video(path, frames, fps=FPS)
