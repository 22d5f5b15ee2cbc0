"""The host side of a run: compiled chunks, metrics, checkpoints; then evaluation, curves and a video."""

import contextlib
import dataclasses
import json
import shutil
import time
import warnings
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import mjx_safety
from agents import evaluation, hosts, loggers, policy, run_directory
from agents.checkpoint import Checkpoints
from agents.config import Config, label, preset, slug, validate
from agents.loop import Trainer, TrainState
from agents.mesh import STATE, compile_on, make_mesh, place, place_fleet
from agents.plots import plot_curves
from agents.policy import Policy
from agents.progress import Reporter

if TYPE_CHECKING:
    from mjx_safety import Env

FPS = 30
BEST = "best"  # directory of one policy per setting


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves behind.

    Attributes:
        run_dir: where its files are.
        config: its settings.
        metrics: name -> [updates] for one agent, [updates, agents] for several; NaN where no episode finished.
        evaluation: per agent its seed, setting, cost rate and a summary per mode; see `agents.evaluation`.
        settings: per setting what its seeds say together, and its best agent; see `evaluation.summarize_settings`.
        policy: the (first) agent's policy.
    """

    run_dir: Path
    config: Config
    metrics: dict[str, np.ndarray]
    evaluation: list[dict[str, Any]]
    settings: list[dict[str, Any]]
    policy: Policy


@dataclasses.dataclass(frozen=True)
class Run:
    """A run that can begin: everything that can be refused has been checked."""

    env: "Env"
    task: str | None
    config: Config
    run_dir: Path
    mesh: Mesh
    loggers: tuple[str, ...]


def train(
    env: "Env | str",
    config: Config | None = None,
    *,
    run_dir: str | Path | None = None,
    resume: bool = False,
    devices: int | None = None,
    tensorboard: bool = False,
    wandb: bool = False,
    progress: bool = True,
) -> Result:
    """Train a fleet of agents in one program and evaluate them.

    Args:
        env: a registered id such as "PointGoal1", or an environment.
        config: settings; without any, those of the run to resume, else the preset for this machine (`agents.preset()`).
        run_dir: directory to write; runs/<task>-<time> without one.
        resume: continue the run in `run_dir`; it ends with exactly the metrics of an uninterrupted one, and on other
            devices with the same to rounding.
        devices: how many devices to use, of each process where there are several; all without one. After
            `jax.distributed.initialize` every process makes the same call, and the first one writes the files.
        tensorboard: also write event files for TensorBoard, under RUN_DIR/tensorboard; needs tensorboardX.
        wandb: also log to Weights & Biases, one run per agent; needs wandb.
        progress: print progress and the evaluation.

    Raises:
        TypeError: `env` is no environment or `config` no Config.
        ValueError: a setting is wrong, or the run to resume had other settings.
        ImportError: the package of a logger is missing.
        OSError: the directory cannot be written, or holds a run and `resume` is False.
        FloatingPointError: training diverged.
    """
    names = tuple(name for name, wanted in (("tensorboard", tensorboard), ("wandb", wandb)) if wanted)
    return execute(prepare(env, config, run_dir, resume, devices, names), progress)


def prepare(
    env: "Env | str",
    config: Config | None,
    run_dir: str | Path | None,
    resume: bool,
    devices: int | None = None,
    logger_names: tuple[str, ...] = (),
) -> Run:
    """Everything that can be refused, before anything is compiled."""
    task = env if isinstance(env, str) else None

    def open_run() -> tuple[Config, Path]:
        chosen, where = config, run_dir
        if resume and chosen is None and where is not None and (Path(where) / run_directory.CONFIG).exists():
            _, chosen = run_directory.read_config(Path(where))
        chosen = preset() if chosen is None else chosen
        validate(chosen)
        _choose_mesh(chosen, devices)
        loggers.check(logger_names)
        if where is None:
            if resume:
                raise ValueError("--resume needs the --run-dir of the run to continue")
            where = Path("runs") / f"{task or 'run'}-{datetime.now():%Y%m%d-%H%M%S}"
        run_directory.open_run(Path(where), task, chosen, resume)
        return chosen, Path(where)

    if config is not None and not isinstance(config, Config):
        raise TypeError(f"config is {config!r}; it must be an agents.Config, such as agents.preset() gives")
    if isinstance(env, str):
        env = mjx_safety.make(env)
    if not all(hasattr(env, name) for name in ("reset", "step", "task", "observation_size", "action_size")):
        raise TypeError(f"env is {env!r}; it must be a task id such as 'PointGoal1', or an environment")
    config, where = hosts.on_first(open_run)
    mesh = _choose_mesh(config, devices)
    idle = len(hosts.choose_devices(devices)) - mesh.size
    # Unasked, nothing is said of the cores of a CPU: they share in matrix products all the same.
    if idle and (devices is not None or jax.default_backend() != "cpu"):
        warnings.warn(f"{idle} devices have nothing to do: train more agents, or raise num_groups", stacklevel=3)
    return Run(env, task, config, where, mesh, logger_names)


def _choose_mesh(config: Config, num_devices: int | None) -> Mesh:
    devices = hosts.choose_devices(num_devices)
    mesh = make_mesh(len(config.agents), config.num_groups, devices)
    idle = {device.process_index for device in devices} - {device.process_index for device in mesh.devices.flat}
    if idle:
        raise ValueError(
            f"{len(config.agents)} agents of {config.num_groups} groups fill {mesh.size} of {len(devices)} devices, "
            f"which leaves whole hosts without work: train more agents, or raise num_groups"
        )
    return mesh


def execute(run: Run, progress: bool) -> Result:
    """Train, then write the policies, curves, evaluation and video."""
    states = _optimize(run, progress and hosts.is_first())
    policies = hosts.to_host(policy.from_state(states))
    return hosts.on_first(lambda: _conclude(run, policies, progress))


def _optimize(run: Run, progress: bool) -> TrainState:
    """Run all updates that are still to do; returns the final states [agents, ...]."""
    config, run_dir, mesh = run.config, run.run_dir, run.mesh
    keys, hypers = place_fleet(mesh, config)
    init, chunk = compile_on(mesh, Trainer(run.env, config))

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(contextlib.closing(Checkpoints(run_dir / "checkpoints")))
        template = jax.eval_shape(init, keys, hypers)
        restored = checkpoints.restore_latest(template)
        done = 0 if restored is None else int(restored.num_updates[0])
        states = init(keys, hypers) if restored is None else place(mesh, STATE, restored, template)
        # Copies: outputs that share a buffer with each other or with an input cannot be donated.
        states = jax.tree.map(jnp.copy, states)
        log = stack.enter_context(Log(run, done, progress)) if hosts.is_first() else None
        states, _ = chunk(states, hypers, jnp.int32(0))  # compiles, so that the speeds below are those of training
        while done < config.num_updates:
            start, count = time.perf_counter(), min(config.updates_per_chunk, config.num_updates - done)
            states, metrics = chunk(states, hypers, jnp.int32(count))
            metrics = hosts.to_host(metrics)
            seconds = time.perf_counter() - start
            # Rows first: whatever moment the process dies at, no checkpoint is ahead of the metrics.
            rows = log.write(done, count, metrics) if log else []
            _stop_if_diverged(metrics, done, count, config, states, run_dir)
            done += count
            checkpoints.save(done, states)
            if log:
                log.time(done, count, seconds, rows)
    return states


class Log:
    """Where the numbers of a run go: its files, the loggers asked for, and the terminal."""

    def __init__(self, run: Run, done: int, progress: bool):
        self._config, run_dir = run.config, run.run_dir
        self._metrics, self._timing = run_dir / run_directory.METRICS_FILE, run_dir / run_directory.TIMING
        run_directory.truncate_rows(self._metrics, done * len(run.config.agents))
        run_directory.truncate_timing(self._timing, done)
        self._loggers = loggers.open_loggers(run.loggers, run_dir, run.task, run.config, done)
        total = run.config.num_updates * run.config.batch_size
        self._reporter = Reporter(run.task or "training", total, enabled=progress)

    def __enter__(self) -> "Log":
        self._reporter.__enter__()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._reporter.__exit__(*exception)
        for logger in self._loggers:
            logger.close()

    def write(self, done: int, count: int, metrics: dict[str, np.ndarray]) -> list[dict[str, Any]]:
        """Record `count` updates after the first `done`; returns their rows."""
        rows = run_directory.rows_of_chunk(self._config, done, count, metrics)
        run_directory.append_rows(self._metrics, rows)
        for logger in self._loggers:
            logger.write(rows)
        return rows

    def time(self, done: int, count: int, seconds: float, rows: list[dict[str, Any]]) -> None:
        """Record how long the last `count` of `done` updates took, and show the newest of their rows."""
        num_agents = len(self._config.agents)
        speed = count * self._config.batch_size * num_agents / seconds
        run_directory.append_rows(self._timing, [{"update": done, "seconds": seconds, "steps_per_second": speed}])
        self._reporter.show(rows[-num_agents:], speed)


def _stop_if_diverged(
    metrics: dict[str, np.ndarray], done: int, count: int, config: Config, states: TrainState, run_dir: Path
) -> None:
    finite = {name: np.isfinite(values[:count]) for name, values in metrics.items()}  # [count, agents]
    # What the last update has learned shows in no metric yet.
    for name in ("params", "opt_state", "normalizer"):
        finite[name] = np.ones((count, len(config.agents)), bool)
        finite[name][-1] = _finite_per_agent(hosts.to_host(getattr(states, name)))
    sound = np.all(list(finite.values()), axis=0)
    if sound.all():
        return
    if hosts.is_first():
        shutil.rmtree(run_dir / "diverged", ignore_errors=True)  # of an earlier attempt
    with contextlib.closing(Checkpoints(run_dir / "diverged")) as broken:
        broken.save(done + count, states)
    update = int(np.argmin(sound.all(1)))
    agents = "; ".join(label(agent) for agent, whole in zip(config.agents, sound[update], strict=True) if not whole)
    bad = ", ".join(name for name, values in finite.items() if not values[update].all())
    steps = [name for name in ("lr", "critic_lr", "target_kl") if name in config.used]
    raise FloatingPointError(
        f"training diverged at update {done + update + 1} ({agents}): {bad} not finite; the state is in "
        f"{run_dir / 'diverged'}, the last sound one in {run_dir / 'checkpoints'}; try a smaller {' or '.join(steps)}"
    )


def _finite_per_agent(arrays: Any) -> np.ndarray:
    """bool [agents]: whether all numbers of an agent are finite, in arrays [agents, ...]."""
    return np.all([np.isfinite(x).reshape(len(x), -1).all(1) for x in jax.tree.leaves(arrays)], axis=0)


def _conclude(run: Run, policies: Policy, progress: bool) -> Result:
    """Write policies, curves, evaluation and video."""
    config, run_dir = run.config, run.run_dir
    policy.save_policy(policies, run_dir / policy.FILE)
    metrics = run_directory.read_metrics(run_dir, len(config.agents))
    plot_curves(metrics, config, run_dir / "curves.png")
    agents, settings = [], []
    if config.eval_episodes or config.video_steps:
        episodes, states = evaluation.run_episodes(
            run.env, policies, evaluation_key(), max(config.eval_episodes, 1), frames=config.video_steps, config=config
        )
        if config.eval_episodes:
            agents, settings = write_evaluation(run_dir, run.task, config, policies, episodes, progress)
        if config.video_steps:
            write_video(run.env, states, run_dir / "video.mp4")
    if len(config.agents) == 1:
        metrics = {name: array[:, 0] for name, array in metrics.items()}
    if progress:
        print(f"run directory: {run_dir}")
    return Result(run_dir, config, metrics, agents, settings, policy.load_policy(run_dir))


def evaluation_key() -> jax.Array:
    """The layouts agents are evaluated on: the same for every run, and none that a training seed starts from."""
    return jax.random.fold_in(jax.random.key(0), 2**31)


def write_evaluation(
    run_dir: Path,
    task: str | None,
    config: Config,
    policies: Policy,
    episodes: list[dict[str, evaluation.Episodes]],
    progress: bool,
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Write evaluation.json and the best policy of every setting; returns the summaries per agent and per setting."""
    cost_rates = run_directory.read_metrics(run_dir, len(config.agents))["cost_rate"][-1]
    agents = [
        {
            **agent,
            "cost_rate": float(cost_rate),
            **{mode: evaluation.summarize(totals, agent["cost_limit"]) for mode, totals in modes.items()},
        }
        for agent, cost_rate, modes in zip(config.agents, cost_rates, episodes, strict=True)
    ]
    settings = evaluation.summarize_settings(config.settings, agents)
    results = {"task": task, "agents": agents, "settings": settings}
    run_directory.write_atomically(run_dir / "evaluation.json", json.dumps(results, indent=2) + "\n")
    (run_dir / BEST).mkdir(exist_ok=True)
    for setting, summary in zip(config.settings, settings, strict=True):
        chosen = jax.tree.map(lambda x, best=summary["best"]: x[best : best + 1], policies)
        policy.save_policy(chosen, run_dir / BEST / f"{slug(setting)}.npz")
    if progress:
        print(evaluation.report(list(config.settings[0]), agents, settings))
    return agents, settings


def write_video(env: "Env", states: Any, path: Path) -> None:
    """Render states [T] to an mp4."""
    frames = mjx_safety.render(env, jax.device_get(states), camera="fixedfar", width=640, height=480)
    mjx_safety.save_video(path, frames, fps=FPS)
