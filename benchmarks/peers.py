"""Environment steps per second beside Safety-Gymnasium, CRAX and OmniSafe, in alternating rounds of one run.

    python -m benchmarks.peers --tasks PointGoal1 CarGoal2

For every task: ours under random actions with auto-reset, Safety-Gymnasium in one process and in as many as there are
cores, and beside PointGoal1 the point's goal task of CRAX. Then training, learning included: TRPO-Lagrangian of ours,
and OmniSafe's. While one steps, the others sleep. Each peer gets a virtual environment of its own, with pinned versions
of what it needs, at the first run; one that cannot be had is reported as missing. Peers run on the CPU; so do we with
JAX_PLATFORMS=cpu.
"""

import contextlib
import dataclasses
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
from rich.console import Console
from rich.table import Table

import mjx_safety
from agents import hosts, preset
from agents.config import choose
from agents.run_directory import append_rows
from benchmarks import programs
from benchmarks.programs import Program
from benchmarks.throughput import check_output, circumstances, moment
from mjx_safety import Env
from mjx_safety.scene import robot_model

STEPPING, TRAINING = "stepping", "training"
SAFETY_GYMNASIUM, CRAX, OMNISAFE = "safety_gymnasium", "crax", "omnisafe"
VECTOR = f"{SAFETY_GYMNASIUM}_vector"
TASKS = tuple(
    f"{robot}{goal}{i}" for robot in ("Point", "Car", "Doggo") for goal in ("Goal", "Button", "Push") for i in range(3)
)
CRAX_BESIDE, CRAX_TASK = "PointGoal1", "safe_goal_point"
Row = dict[str, Any]
WORKER = Path(__file__).parent / "peer_worker.py"


class Pins(NamedTuple):
    """What is installed for a peer: first without what it asks for, then what it gets instead."""

    alone: tuple[str, ...]
    rest: tuple[str, ...]


# Safety-Gymnasium asks for a pygame that does not build on Python 3.11; nothing is drawn here.
_GYMNASIUM = Pins(
    ("safety-gymnasium==1.0.0",),
    (
        "gymnasium==0.28.1",
        "gymnasium-robotics==1.2.2",
        "imageio==2.38.1",
        "mujoco==2.3.3",
        "numpy==1.23.5",
        "pettingzoo==1.24.3",
        "pygame==2.6.1",
        "pyyaml==6.0.4",
        "xmltodict==1.0.4",
    ),
)
PEERS = {
    SAFETY_GYMNASIUM: _GYMNASIUM,
    CRAX: Pins((), ("crax-bench==0.1.0", "flax==0.12.8", "jax==0.10.2", "mujoco==3.11.0", "mujoco-mjx==3.11.0")),
    OMNISAFE: Pins(
        ("omnisafe==0.5.0", *_GYMNASIUM.alone),
        (
            *_GYMNASIUM.rest,
            "gdown==6.5.1",
            "matplotlib==3.10.9",
            "moviepy==1.0.3",
            "pandas==2.0.3",
            "rich==15.0.0",
            "seaborn==0.13.2",
            "tensorboard==2.21.0",
            "torch==2.13.0",
            "typer==0.29.2",
            "typing-extensions==4.16.0",
            "wandb==0.31.0",
        ),
    ),
}


@dataclasses.dataclass(frozen=True)
class Args:
    """What to measure."""

    tasks: tuple[str, ...] = ("PointGoal1", "PointGoal2", "CarGoal2", "DoggoGoal2")
    """Ids that Safety-Gymnasium has too."""
    training_tasks: tuple[str, ...] = ("PointGoal1",)
    """The same, to train on; none for no training."""
    peers: tuple[str, ...] = tuple(PEERS)
    """safety_gymnasium, crax and omnisafe."""
    num_envs: int = 1024
    """Batch size of ours; training takes its preset's."""
    crax_num_envs: int = 128
    """Batch size of CRAX."""
    rounds: int = 5
    """Timed rounds of each program, taken in turn."""
    round_seconds: float = 5.0
    """Least duration of a round: a thousand steps of a peer, so that its resets count."""
    training_rounds: int = 2
    """The same of training, each an epoch of OmniSafe's."""
    epoch_steps: int = 20_000
    """Environment steps of OmniSafe's epochs, by default its own: their length changes how much it learns per step."""
    environments: Path = Path("build/peers")
    """Directory of the peers' virtual environments; those that are complete are not made again."""
    python: str = sys.executable
    """Interpreter of those; the pins are for Python 3.11."""
    output: Path = Path("benchmarks/results/peers.jsonl")
    """File to which one JSON object per program is appended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 some peer is missing, 2 refused."""
    args = tyro.cli(Args, prog="python -m benchmarks.peers", description=__doc__, args=argv)
    hosts.split_cpu()
    try:
        check(args)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    rows = run(args, console)
    console.print(table(rows), f"Rates per second; appended to {args.output}", sep="\n")
    missing = [row for row in rows if row["missing"]]
    for row in missing:
        print(f"missing: {row['task']}, {row['benchmark']}: {row['missing']}", file=sys.stderr)
    return 1 if missing else 0


def check(args: Args) -> None:
    """Raise what is wrong with the settings, before anything is installed."""
    for field in ("tasks", "peers"):
        if not getattr(args, field):
            raise ValueError(f"{field} is empty; name at least one.")
    for task in (*args.tasks, *args.training_tasks):
        choose("task", task, TASKS)
    for peer in args.peers:
        choose("peer", peer, PEERS)
    for field in ("num_envs", "crax_num_envs", "rounds", "training_rounds"):
        if getattr(args, field) < 1:
            raise ValueError(f"{field} is {getattr(args, field)}; it must be at least 1.")
    if not 0 < args.round_seconds < math.inf:
        raise ValueError(f"round_seconds is {args.round_seconds}; it must be a positive number of seconds.")
    if args.epoch_steps < 1000:
        raise ValueError(f"epoch_steps is {args.epoch_steps}; it must be at least 1000, an episode.")
    check_output(args.output)


def run(args: Args, console: Console) -> list[Row]:
    """Measure everything, appending to the output as the numbers come."""
    rows, where, pythons = [], circumstances(), {}
    for name in dict.fromkeys(args.peers):
        console.print(f"{name}: preparing its environment ...")
        pythons[name] = environment(PEERS[name], args.environments / name, args.python)
    for task, train in [(task, False) for task in args.tasks] + [(task, True) for task in args.training_tasks]:
        console.print(f"{task}: compiling {TRAINING if train else STEPPING} ...")
        now = moment()
        env = mjx_safety.make(task)
        ours = training(env) if train else stepping(env, args.num_envs)
        ours.program.fill(args.round_seconds)
        rounds = args.training_rounds if train else args.rounds
        new = measure(ours, jobs(task, train, args), pythons, rounds, args.round_seconds)
        new = [{"task": task} | row | now | where for row in new]
        append_rows(args.output, new)
        rows += new
    return rows


class Ours(NamedTuple):
    """A program of ours, its environments, physics steps of an environment step, and their seconds."""

    program: Program
    num_envs: int
    physics_steps: int
    timestep: float

    @classmethod
    def of(cls, program: Program, env: Env, num_envs: int) -> "Ours":
        """A program that steps so many of an environment."""
        return cls(program, num_envs, env.task.frame_skip, float(robot_model(env.task.robot).opt.timestep))


def stepping(env: Env, num_envs: int) -> Ours:
    """Random actions with auto-reset, some way into the episodes."""
    program = programs.Stepping(env, programs.begin(env, num_envs)).with_reset(STEPPING)
    return Ours.of(program, env, num_envs)


def training(env: Env) -> Ours:
    """Updates of the default preset, some way into the episodes."""
    num_envs = preset().num_envs
    return Ours.of(programs.training(TRAINING, env, num_envs), env, num_envs)


class Job(NamedTuple):
    """What a peer is to do: the name for the record, whose environment it needs, and what the worker is told."""

    name: str
    peer: str
    arguments: tuple[str, str, str]


def jobs(task: str, train: bool, args: Args) -> list[Job]:
    """What is measured beside a task of ours."""
    theirs = f"Safety{task}-v0"
    all_jobs = (
        [Job(OMNISAFE, OMNISAFE, (OMNISAFE, theirs, str(args.epoch_steps)))]
        if train
        else [
            Job(SAFETY_GYMNASIUM, SAFETY_GYMNASIUM, (SAFETY_GYMNASIUM, theirs, "1")),
            Job(VECTOR, SAFETY_GYMNASIUM, (VECTOR, theirs, str(os.cpu_count() or 1))),
        ]
    )
    if task == CRAX_BESIDE and not train:
        all_jobs.append(Job(CRAX, CRAX, (CRAX, CRAX_TASK, str(args.crax_num_envs))))
    return [job for job in all_jobs if job.peer in args.peers]


class Missing(Exception):
    """Why a peer cannot be had, or no longer answers."""


def environment(pins: Pins, directory: Path, python: str) -> Path | Missing:
    """The interpreter of a virtual environment with what is pinned, made unless it is there; or why there is none."""
    done, wanted = directory / "installed.json", json.dumps([python, pins])
    inside = directory.resolve() / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if done.exists() and done.read_text() == wanted:
        return inside
    install = [str(inside), "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    commands = [[python, "-m", "venv", "--clear", str(directory)]]
    commands += [[*install, "--no-deps", *pins.alone]] if pins.alone else []
    for command in [*commands, [*install, *pins.rest]]:
        try:
            result = subprocess.run(command, capture_output=True, text=True)
        except OSError as error:
            return Missing(f"{command[0]}: {error.strerror}")
        if result.returncode:
            return Missing(last_line(result.stderr or result.stdout))
    done.write_text(wanted)
    return inside


class Worker:
    """A peer in a process of its own, which sleeps unless a round is asked of it.

    Attributes:
      ready: what it said of itself: num_envs, physics_steps of an environment step, timestep in s, and versions.
    """

    def __init__(self, job: Job, python: Path, directory: Path):
        """Start it, in a directory for what it writes; raises Missing if it does not get ready."""
        self._log = directory / "log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [str(python), "-I", "-W", "ignore", str(WORKER), *job.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                cwd=directory,
            )
        self.ready = self._answer()

    def rate(self, seconds: float) -> float:
        """Environment steps per second of one round of at least so many seconds; raises Missing."""
        assert self._process.stdin
        with contextlib.suppress(BrokenPipeError):  # its log says more
            print(seconds, file=self._process.stdin, flush=True)
        answer = self._answer()
        return answer["steps"] / answer["seconds"]

    def close(self) -> None:
        """No more questions."""
        assert self._process.stdin
        assert self._process.stdout
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(10.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            self.close()
            raise Missing(last_line(self._log.read_text(errors="replace")))
        return json.loads(line)


def last_line(text: str) -> str:
    """What a program said last, or that it said nothing."""
    return ([line.strip() for line in text.splitlines() if line.strip()] or ["it ended without a word"])[-1]


def measure(ours: Ours, jobs: list[Job], pythons: dict[str, Path | Missing], rounds: int, seconds: float) -> list[Row]:
    """Alternating rounds of ours and the peers: their rates, and medians of ratios within a round."""
    mine: list[float] = []
    workers: dict[str, Worker] = {}
    missing: dict[str, Missing] = {}
    rates: dict[str, list[float]] = {job.name: [] for job in jobs}
    with contextlib.ExitStack() as stack:
        for job in jobs:
            try:
                if isinstance(python := pythons[job.peer], Missing):
                    raise python
                directory = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
                workers[job.name] = stack.enter_context(contextlib.closing(Worker(job, python, directory)))
            except Missing as error:
                missing[job.name] = error
        for _ in range(rounds):
            mine.append(ours.program.rate())
            for name in [name for name in workers if name not in missing]:
                try:
                    rates[name].append(workers[name].rate(seconds))
                except Missing as error:
                    missing[name] = error
    said = ours._asdict() | {"versions": None}
    rows = [row(ours.program.name, said, mine, mine, ours.physics_steps)]
    for name, theirs in rates.items():
        if name in missing:
            rows.append({"benchmark": name, "missing": str(missing[name])})
        else:
            rows.append(row(name, workers[name].ready, theirs, mine, ours.physics_steps))
    return rows


def row(name: str, said: dict[str, Any], rates: list[float], ours: list[float], physics_steps: int) -> Row:
    """What a program did beside ours, whose environment steps are so many physics steps."""
    ratio = statistics.median(a / b for a, b in zip(ours, rates, strict=True))
    return {
        "benchmark": name,
        "missing": None,
        "num_envs": said["num_envs"],
        "env_steps_per_s": statistics.median(rates),
        "env_steps_per_s_min": min(rates),
        "env_steps_per_s_max": max(rates),
        "physics_steps_per_s": statistics.median(rates) * said["physics_steps"],
        "physics_timestep_s": said["timestep"],
        "ours_to_it": ratio,
        "ours_to_it_physics": ratio * physics_steps / said["physics_steps"],
        "rounds": len(rates),
        "peer_versions": said["versions"],
    }


def table(rows: list[Row]) -> Table:
    """The measurements for the eye, rates per second; the last columns say how many times as fast ours is."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    for name in ("task", "program", "envs", "steps/s", "min", "max", "physics/s", "ours x", "physics x"):
        table.add_column(name, justify="left" if name in ("task", "program") else "right", no_wrap=True)
    rates = "env_steps_per_s", "env_steps_per_s_min", "env_steps_per_s_max", "physics_steps_per_s"
    for row in rows:
        if row["missing"]:
            table.add_row(row["task"], row["benchmark"], "", "missing")
            continue
        numbers = *(f"{row[rate]:,.0f}" for rate in rates), *(f"{row[f'ours_to_it{x}']:.1f}" for x in ("", "_physics"))
        table.add_row(row["task"], row["benchmark"], str(row["num_envs"]), *numbers)
    return table


if __name__ == "__main__":
    sys.exit(main())
