"""The page and the picture of the throughput benchmark, from the newest of its rows."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.programs import COPIES, FLEET, MORE_HAZARDS, SPAN, WARM_UP
from benchmarks.throughput import ON_DEVICES, short
from docs.tables import results, table, versions

Row = dict[str, Any]

GRAPHS = "--xla_gpu_enable_command_buffer=+WHILE,+CONDITIONAL,+DYNAMIC_SLICE_FUSION"
HEAD = f"""# Throughput

Environment steps per second under random actions, medians over rounds. The programs of a task and batch size take turns
and start from states that are {WARM_UP} steps old, each environment somewhere else in its episode; ratios are medians
within rounds. Compile time is left out.

![rate against batch size](pictures/throughput.png)

- **stepping**: `AutoReset.step`. Every round is long enough for the bank of new layouts to be refilled about once.
- **per env**: that rate divided by the number of environments.
- **of the physics**: stepping relative to the physics alone: the same models and physics steps, without observations,
  rewards, costs, goals and resets. As these robots are never reset, they go back to where stepping has come every
  {SPAN} steps.
- **resets**: share of stepping's time that is not spent where there is no auto-reset, from the same states.
- **more hazards**: the task with {MORE_HAZARDS} more hazards, relative to stepping.
- **training**: the trainer's compiled update, acting and learning, on as many devices as the preset has groups, a core
  of a CPU each; stepping is on one.
- **fleet**: {FLEET} agents that share the environments and train in one program, relative to training.
- **{COPIES} agents**: the time of an update of {COPIES} agents in one program, relative to that of one of them alone.
- **x C MuJoCo**: stepping relative to C MuJoCo's bare physics in float64 on all cores.
- **state**, **temporaries**: device memory of an environment: `AutoReset`'s state, and what a step needs beside it.
- **impl**: what computes the physics: [ours or MuJoCo Warp](physics.md).
- **kernels**: of a compiled step with its random actions, and how many of them are in loops, which only run where there
  is something to do. Those in a loop count once, and so does a call of Warp with all its kernels, or one that a CPU
  takes in one go; in rows of `a729614` and before, what is in the latter counts.
- **run**: kernels and copies that a GPU ran in a step, as its profiler counts them, those in loops each time. It
  does not see into graphs: where loops are graphs, this and the next are left out.
- **busy**: share of stepping's time for which one of them was running; the rest is their launch, and the host's wait
  for whether a loop goes on.
- **first step**: seconds from a task's id to its first step in a fresh process, device started; and again in a second
  process, with JAX's persistent compilation cache from the first (`JAX_COMPILATION_CACHE_DIR`).
- **devices**: stepping on so many of them, each with a batch of that size, relative to one.

What limits a GPU is how many kernels follow each other, not how large they are: most of those that run in a step are
Newton's method on the few environments in contact, a microsecond or two each. So rates grow with the batch, and large
batches are what the `gpu` preset trains with. Without being asked XLA launches the kernels of a loop one by one, and
the host waits for each round's end; with

    XLA_FLAGS={GRAPHS}

in the environment it makes graphs of loops; compare the sections below. Rows of the Car on GPUs are older than its
present solver.

Every number is measured by `python -m benchmarks.throughput` with

"""
COMMANDS = (
    (
        "share of the physics, of resets",
        "--tasks PointGoal1 CarGoal1 DoggoGoal1 PointButton2 CarPush2 --num-envs 1024 --programs no_auto_reset physics",
    ),
    (
        "growth with the batch and with hazards",
        "--tasks PointGoal1 --num-envs 256 1024 2048 4096 --programs more_hazards",
    ),
    ("training, C MuJoCo", "--tasks PointGoal1 PointGoal2 --num-envs 256 512 1024 --programs training c_mujoco"),
    ("fleets", "--tasks PointGoal1 --num-envs 512 --programs training fleet"),
    ("memory, kernels, first step", "--tasks PointGoal1 --num-envs 1024 --programs --compile"),
    ("devices", "--tasks PointGoal1 --num-envs 512 --programs --devices 2"),
    (
        "a GPU",
        "--tasks PointGoal1 --num-envs 1024 8192 32768 131072 --programs physics more_hazards training "
        "--rounds 3 --compile-threads 16 --profile",
    ),
    (
        f"{COPIES} agents on a GPU",
        "--tasks PointGoal1 --num-envs 1024 --programs training copies --rounds 3 --compile-threads 4",
    ),
    ("with these `XLA_FLAGS`", "--tasks PointGoal1 --num-envs 1024 32768 --programs --rounds 3 --profile"),
    ("the Car on a GPU", "--tasks CarGoal1 --num-envs 1024 32768 131072 --programs --rounds 3 --compile-threads 3"),
    ("both engines", "--tasks PointGoal1 PointGoal2 CarGoal1 --impls jax warp --num-envs 32 --rounds 3 --programs"),
)


def page() -> str:
    """docs/throughput.md without its first line."""
    rows = newest(results("throughput"))
    places = list(dict.fromkeys(map(_place, rows)))
    sections = [_section(place, [row for row in rows if _place(row) == place]) for place in places]
    return (
        HEAD
        + table(("measures", "options"), [(what, f"`{options}`") for what, options in COMMANDS])
        + "\n`JAX_NUM_CPU_DEVICES=4` before the command splits a CPU into so many devices.\n"
        "Results are appended to `benchmarks/results/throughput.jsonl`; the newest of each are below.\n\n"
        + "\n".join(sections)
    )


def newest(rows: Iterable[Row]) -> list[Row]:
    """The last row of each task, impl, benchmark, batch size, device and compiler's flags, in order."""
    last = {}
    for row in sorted(rows, key=lambda row: row["date"]):
        row = {"impl": "jax"} | row  # the first rows do not say so
        last[*(row[name] for name in ("task", "impl", "benchmark", "num_envs")), _place(row)] = row
    return sorted(last.values(), key=lambda row: (row["device"], row["task"], row["impl"], row["num_envs"]))


def _place(row: Row) -> str:
    """The heading under which a row is shown: its device, and the flags that XLA was given, each set of them apart."""
    flags = row.get("xla_flags")
    return f"{row['device']}, `{flags}`" if flags else row["device"]


def draw(path: Path) -> None:
    """Rate against batch size: stepping and training, by task and device, of whatever has several sizes."""
    rows = [row for row in newest(results("throughput")) if row["benchmark"] in ("stepping", "training")]
    rows = [row for row in rows if not row.get("xla_flags")]
    curves: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        curves.setdefault((row["device"], row["impl"], row["task"], row["benchmark"]), []).append(row)
    curves = {what: points for what, points in curves.items() if len(points) > 1}
    colours = list(dict.fromkeys(what[:3] for what in curves))
    figure, axis = plt.subplots(figsize=(7, 4.2), layout="constrained")
    for (device, impl, task, name), points in curves.items():
        axis.plot(
            [row["num_envs"] for row in points],
            [row["env_steps_per_s"] for row in points],
            color=f"C{colours.index((device, impl, task)) % 10}",
            marker="o",
            linestyle="-" if name == "stepping" else "--",
            label=f"{task}, {name}, {impl}, {device}",
        )
    axis.set(xscale="log", yscale="log", xlabel="environments", ylabel="environment steps per second")
    axis.set_xticks(sizes := sorted({row["num_envs"] for row in rows}), [str(size) for size in sizes])
    axis.xaxis.minorticks_off()
    axis.grid(alpha=0.3)
    axis.legend(fontsize="small")
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _section(place: str, rows: list[Row]) -> str:
    groups: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        groups.setdefault((row["task"], row["impl"], row["num_envs"]), {})[row["benchmark"]] = row
    tables = [
        _shown(groups, ("stepping", "per env", "of the physics", "resets", "more hazards"), _rates),
        _shown(groups, ("training", "fleet", f"{COPIES} agents", "x C MuJoCo"), _beside),
        _shown(groups, ("state", "temporaries", "kernels", "in loops", "first step", "cached"), _compiled),
        _shown(groups, ("run", "busy"), _on_gpu),
        _shown(groups, ("devices",), _devices),
    ]
    return "\n".join([f"## {place}\n", *filter(None, tables), _measured(rows)])


def _shown(groups: dict[tuple[str, str, int], dict[str, Row]], head: tuple[str, ...], cells: Any) -> str:
    """A table of all tasks and batch sizes of which there is something to show."""
    lines = [(f"`{task}`", impl, num_envs, *cells(by)) for (task, impl, num_envs), by in groups.items()]
    lines = [line for line in lines if any(line[3:])]
    return table(("task", "impl", "envs", *head), lines) if lines else ""


def _rates(by: dict[str, Row]) -> tuple[str, ...]:
    stepping = by.get("stepping")
    if not stepping:
        return ()
    physics, without = _stepping_to(by, "physics"), _stepping_to(by, "no_auto_reset")
    low, high = (short(stepping[f"env_steps_per_s_{end}"]) for end in ("min", "max"))
    rate = stepping["env_steps_per_s"]
    return (
        f"{short(rate)} ({low} to {high})",
        f"{rate / stepping['num_envs']:.0f}",
        _number(physics, "{:.2f}"),
        _number(None if without is None else 1.0 - without, "{:.1%}"),
        _number(by.get("more_hazards", {}).get("ratio_to_stepping"), "{:.2f}"),
    )


def _beside(by: dict[str, Row]) -> tuple[str, ...]:
    training, copies = by.get("training"), by.get("copies", {}).get("ratio_to_training")
    return (
        short(training["env_steps_per_s"]) if training else "",
        _number(by.get("fleet", {}).get("ratio_to_training"), "{:.2f}"),
        _number(None if copies is None else COPIES / copies, "{:.2f}"),
        _number(_stepping_to(by, "c_mujoco"), "{:.1f}"),
    )


def _compiled(by: dict[str, Row]) -> tuple[str, ...]:
    stepping, first = by.get("stepping", {}), by.get("first_step", {})
    return (
        _number(stepping.get("state_bytes_per_env"), "{:,.0f} B"),
        _number(stepping.get("temp_bytes_per_env"), "{:,.0f} B"),
        _number(stepping.get("kernels"), "{:,}"),
        _number(stepping.get("kernels_in_loops"), "{:,}"),
        _number(first.get("first_step_s"), "{:.1f} s"),
        _number(first.get("first_step_cached_s"), "{:.1f} s"),
    )


def _on_gpu(by: dict[str, Row]) -> tuple[str, ...]:
    stepping = by.get("stepping", {})
    ran = stepping.get("on_gpu")
    if not ran or "command_buffer" in (stepping.get("xla_flags") or ""):
        return ()
    step_s = stepping["num_envs"] / stepping["env_steps_per_s"]
    return f"{ran['kernels']:,.0f}", f"{ran['busy_s'] / step_s:.0%}"


def _devices(by: dict[str, Row]) -> tuple[str, ...]:
    shown = {
        int(name.removeprefix(ON_DEVICES)): row["ratio_to_stepping"]
        for name, row in by.items()
        if name.startswith(ON_DEVICES)
    }
    return (", ".join(f"{number}: {shown[number]:.2f}" for number in sorted(shown)),)


def _stepping_to(by: dict[str, Row], name: str) -> float | None:
    """Stepping relative to another program, from that one's row: stepping may have been measured again without it."""
    ratio = by.get(name, {}).get("ratio_to_stepping")
    return None if ratio is None else 1.0 / ratio


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _measured(rows: list[Row]) -> str:
    """What was measured when and with what, one line for each commit."""
    commits: dict[tuple[str, ...], list[Row]] = {}
    for row in rows:
        machine = f"{row['cpu_count']} cores, {row['machine']}"
        commits.setdefault((f"`{row['commit']}`", versions(row["versions"]), machine), []).append(row)
    lines = []
    for (commit, used, machine), measured in commits.items():
        what = ", ".join(sorted({f"{row['task']} x {row['num_envs']}" for row in measured}))
        lines.append((commit, max(row["date"] for row in measured)[:10], what, machine, used))
    return table(("commit", "date", "measured", "machine", "versions"), lines)
