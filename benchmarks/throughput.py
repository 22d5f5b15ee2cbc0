"""Environment steps per second of stepping and of training, beside the bare physics and C MuJoCo in the same run.

    python -m benchmarks.throughput --tasks PointGoal1 PointGoal2 --num-envs 256 1024 4096

For every task and batch size: stepping under random actions with auto-reset, and whatever `--programs` names. Their
rounds alternate, so that a busy machine slows them alike. Compile time is left out of the rates and reported beside
them, with the memory of an environment and the number of kernels. docs/throughput.md shows the newest results, and the
command for each.
"""

import dataclasses
import importlib.metadata
import itertools
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, get_args

import jax
import tyro
from rich.console import Console
from rich.table import Table

import mjx_safety
from agents import hosts
from agents.run_directory import append_rows
from benchmarks import c_mujoco, first_step, kernels, programs
from benchmarks.programs import Program
from mjx_safety import Env
from mjx_safety.env import Impl

Beside = Literal["no_auto_reset", "physics", "more_hazards", "training", "fleet", "copies", "c_mujoco"]
STEPPING = "stepping"
NO_AUTO_RESET, PHYSICS, MORE_HAZARDS, TRAINING, FLEET, COPIES, C_MUJOCO = get_args(Beside)
RATIOS = {STEPPING: "stepping", PHYSICS: "physics", TRAINING: "training", C_MUJOCO: "C"}  # as headed in the table
FIRST_STEP = "first_step"
ON_DEVICES = f"{STEPPING}_on_"  # and how many
PACKAGES = "jax", "jaxlib", "mujoco", "mujoco-mjx", "warp-lang", "mjx_safety"


@dataclasses.dataclass(frozen=True)
class Args:
    """What to measure."""

    tasks: tuple[str, ...] = ("PointGoal1", "PointGoal2")
    """Registered ids."""
    impls: tuple[Impl, ...] = ("jax",)
    """What computes the physics."""
    num_envs: tuple[int, ...] = (256, 1024)
    """Batch sizes; a GPU is filled by 16384 and more."""
    programs: tuple[Beside, ...] = (NO_AUTO_RESET, PHYSICS, TRAINING, C_MUJOCO)
    """What is timed in turn with stepping: the same without auto-reset, the bare physics, the task with ten hazards
    more, the trainer's compiled update, that of eight agents who share the environments, that of sixteen with as many
    environments each, and C MuJoCo on all cores."""
    devices: tuple[int, ...] = ()
    """Also step on so many devices, `num_envs` on each."""
    compile: bool = False
    """Also start a task with the first batch size in fresh processes: seconds to the first step, without and with
    JAX's persistent compilation cache."""
    compile_threads: int = 1
    """Programs of a task that are compiled at a time; with several, each takes longer than it would by itself."""
    profile: bool = False
    """Also count the kernels that a GPU runs in a step, and the time for which it does."""
    rounds: int = 9
    """Timed rounds of each program, taken in turn."""
    round_seconds: float = 0.1
    """Least duration of a round."""
    output: Path = Path("benchmarks/results/throughput.jsonl")
    """File to which one JSON object per measurement is appended."""


def main(argv: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 2 refused."""
    args = tyro.cli(Args, prog="python -m benchmarks.throughput", description=__doc__, args=argv)
    hosts.split_cpu()
    try:
        check(args)
    except (ValueError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    jax.config.update("jax_enable_compilation_cache", False)  # compile times are measured
    console = Console()
    console.print(table(run(args, console)), f"Rates per second; appended to {args.output}", sep="\n")
    return 0


def check(args: Args) -> None:
    """Raise what is wrong with the settings, before anything is compiled."""
    for field in ("tasks", "impls", "num_envs"):
        if not getattr(args, field):
            raise ValueError(f"{field} is empty; name at least one.")
    least = {"num_envs": min(args.num_envs), "rounds": args.rounds, "compile_threads": args.compile_threads}
    for field, value in least.items():
        if value < 1:
            raise ValueError(f"{field} is {value}; it must be at least 1.")
    for number in args.devices:
        if not 1 <= number <= jax.device_count():
            raise ValueError(
                f"devices is {number}; there are {jax.device_count()}. JAX_NUM_CPU_DEVICES=N splits a CPU."
            )
    if not 0 < args.round_seconds < math.inf:
        raise ValueError(f"round_seconds is {args.round_seconds}; it must be a positive number of seconds.")
    for task, impl in itertools.product(args.tasks, args.impls):
        mjx_safety.make(task, impl=impl)
    if FLEET in args.programs and any(number % programs.FLEET for number in args.num_envs):
        raise ValueError(f"num_envs is {args.num_envs}; {programs.FLEET} agents must share them evenly.")
    check_output(args.output)


def check_output(path: Path) -> None:
    """Raise OSError unless lines can be appended to the file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.open("a").close()
    except OSError as error:
        raise type(error)(f"cannot write to {path}: {error.strerror}") from None


def run(args: Args, console: Console) -> list[dict[str, Any]]:
    """Measure everything, appending to the output as the numbers come."""
    rows, where = [], circumstances()
    for task in args.tasks:
        console.print(f"{task}: compiling ...")
        envs = [mjx_safety.make(task, impl=impl) for impl in args.impls]
        batches = list(itertools.product(envs, args.num_envs))
        with ThreadPoolExecutor(args.compile_threads) as pool:
            waiting = [[pool.submit(build) for build in builders(*batch, args)] for batch in batches]
            timed = [[program for part in parts for program in part.result()] for parts in waiting]
        reference = [Program(C_MUJOCO, *c_mujoco.rollouts(envs[0]))] if C_MUJOCO in args.programs else []
        for (env, num_envs), group in zip(batches, timed, strict=True):
            now = moment()
            new = []
            if args.compile and num_envs == args.num_envs[0]:
                new.append({"benchmark": FIRST_STEP} | first_step.measure(task, env.impl, num_envs))
            new += measure([*group, *reference], args, env.task.frame_skip)
            threads = {"compile_threads": args.compile_threads}
            new = [{"task": task, "impl": env.impl, "num_envs": num_envs} | row | threads | now | where for row in new]
            append_rows(args.output, new)
            rows += new
    return rows


def builders(env: Env, num_envs: int, args: Args) -> list[Callable[[], list[Program]]]:
    """What compiles stepping, and what is timed in turn with it on the device; in any order, or at once."""

    def stepping() -> list[Program]:
        stepping = programs.Stepping(env, programs.begin(env, num_envs))
        timed = [stepping.with_reset(STEPPING)]
        if NO_AUTO_RESET in args.programs:
            timed.append(stepping.without_reset(NO_AUTO_RESET))
        if PHYSICS in args.programs:
            timed.append(stepping.physics(PHYSICS))
        return timed + [stepping.on_devices(f"{ON_DEVICES}{number}", number) for number in args.devices]

    def more_hazards() -> list[Program]:
        other = Env(programs.more_hazards(env.task), env.impl)
        return [programs.Stepping(other, programs.begin(other, num_envs)).with_reset(MORE_HAZARDS)]

    beside = {
        MORE_HAZARDS: more_hazards,
        TRAINING: lambda: [programs.training(TRAINING, env, num_envs)],
        FLEET: lambda: [programs.training(FLEET, env, num_envs // programs.FLEET, programs.FLEET, 1 / programs.FLEET)],
        COPIES: lambda: [programs.training(COPIES, env, num_envs, programs.COPIES)],
    }
    return [stepping, *(build for name, build in beside.items() if name in args.programs)]


def measure(timed: list[Program], args: Args, frame_skip: int) -> list[dict[str, Any]]:
    """Alternating rounds of the programs: their rates, and medians of ratios within a round, which outlive noise."""
    for program in timed:
        program.fill(args.round_seconds)
    rates: dict[str, list[float]] = {program.name: [] for program in timed}
    for _ in range(args.rounds):
        for program in timed:
            rates[program.name].append(program.rate())

    def ratio(ours: str, theirs: str) -> float | None:
        if theirs not in rates:
            return None
        return statistics.median(a / b for a, b in zip(rates[ours], rates[theirs], strict=True))

    without = ratio(STEPPING, NO_AUTO_RESET)
    return [
        {
            "benchmark": program.name,
            "env_steps_per_s": statistics.median(rates[program.name]),
            "env_steps_per_s_min": min(rates[program.name]),
            "env_steps_per_s_max": max(rates[program.name]),
            "physics_steps_per_s": statistics.median(rates[program.name]) * frame_skip,
            **{f"ratio_to_{name}": ratio(program.name, name) for name in RATIOS},
            # Of the time of stepping; layouts for the episodes to come are most of it.
            "auto_reset_share": 1.0 - without if without is not None and program.name == STEPPING else None,
            "on_gpu": kernels.launched(program.work) if args.profile and program.name == STEPPING else None,
            "rounds": args.rounds,
        }
        | program.facts
        for program in timed
    ]


def circumstances() -> dict[str, Any]:
    """Where and with what the measurement is taken."""
    device = jax.devices()[0]
    installed = {package.name: package.version for package in importlib.metadata.distributions()}
    return {
        "backend": device.platform,
        "device": processor() if device.platform == "cpu" else device.device_kind,
        "num_devices": jax.device_count(),
        "xla_flags": os.environ.get("XLA_FLAGS") or None,
        "machine": platform.machine(),
        "cpu_count": os.cpu_count(),
        "versions": {"python": platform.python_version()} | {name: installed.get(name) for name in PACKAGES},
        "commit": commit(Path(__file__).parent.parent),
    }


def commit(root: Path) -> str | None:
    """The commit of a checkout, "-dirty" where tracked files differ from it, results and texts apart; None outside."""
    if not shutil.which("git"):
        return None

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(root), *words], capture_output=True, text=True).stdout.strip()

    apart = (f":(exclude){path}" for path in ("benchmarks/results", "docs", "*.md"))
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", *apart)
    return git("describe", "--always", "--dirty" if changed else "--always") or None


def processor(info: Path = Path("/proc/cpuinfo")) -> str:
    """The CPU's model as Linux tells it in `info`; elsewhere the kind of machine."""
    fields = (line.partition(":") for line in info.read_text().splitlines()) if info.is_file() else ()
    models = (value.strip() for name, _, value in fields if name.strip() == "model name")
    return next(models, "") or platform.processor() or platform.machine()


def moment() -> dict[str, Any]:
    """When a measurement begins, and how busy the machine is then."""
    return {"date": datetime.now(UTC).isoformat(timespec="seconds"), "load_before": load_average()}


def load_average() -> tuple[float, ...] | None:
    """Of the last 1, 5 and 15 minutes: what else the machine was doing. Windows does not tell."""
    return os.getloadavg() if hasattr(os, "getloadavg") else None


def table(rows: list[dict[str, Any]]) -> Table:
    """The measurements for the eye, rates per second."""
    table = Table(box=None, padding=(0, 1, 0, 0))
    ratios = {f"x {head}": f"ratio_to_{name}" for name, head in RATIOS.items()}
    for name in ("task", "impl", "envs", "program", "steps/s", *ratios, "compile"):
        table.add_column(name, justify="left" if name in ("task", "impl", "program") else "right", no_wrap=True)
    for row in rows:
        what = row["task"], row["impl"], str(row["num_envs"]), row["benchmark"]
        if row["benchmark"] == FIRST_STEP:
            table.add_row(
                *what, "", *[""] * len(ratios), f"{row['first_step_s']:.0f} s, {row['first_step_cached_s']:.0f} s"
            )
            continue
        beside = ("" if row[name] is None else f"{row[name]:.2f}" for name in ratios.values())
        compile_s = f"{row['compile_s']:.0f} s" if "compile_s" in row else ""
        table.add_row(*what, short(row["env_steps_per_s"]), *beside, compile_s)
    return table


def short(rate: float) -> str:
    """A rate with a unit: 1.25M, 93.5k."""
    return f"{rate / 1e6:,.2f}M" if rate >= 1e6 else f"{rate / 1e3:.1f}k"


if __name__ == "__main__":
    sys.exit(main())
