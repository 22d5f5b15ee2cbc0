"""docs/learning.md: rows of the learning benchmark beside the published ones, and the Safety Gym paper's metrics."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from agents import aggregate

Row = dict[str, Any]

RESULTS = Path(__file__).parent / "results" / "learning.jsonl"
PUBLISHED = json.loads((Path(__file__).parent / "original" / "learning.json").read_text())
CHARACTERISTIC: dict[str, list[float]] = PUBLISHED["characteristic"]
COST_LIMIT = 25.0
SLATES = {
    "SG6": ("CarGoal1", "DoggoGoal1", "PointButton1", "PointGoal1", "PointGoal2", "PointPush1"),
    "SG1": tuple(task for task in CHARACTERISTIC if task.endswith("1")),
    "SG2": tuple(task for task in CHARACTERISTIC if task.endswith("2")),
    "SGPoint": tuple(task for task in CHARACTERISTIC if task.startswith("Point")),
    "SGCar": tuple(task for task in CHARACTERISTIC if task.startswith("Car")),
    "SGDoggo": tuple(task for task in CHARACTERISTIC if task.startswith("Doggo")),
    "SG18": tuple(CHARACTERISTIC),
}
SOURCES = ("starter agents", "OmniSafe", "SafePO")
METHODS = {  # published name: our algorithm, and its multiplier's law where it has one
    "PPO": ("ppo", None),
    "PPO-Lagrangian": ("ppo_lagrangian", "adam"),
    "PPO-PID": ("ppo_lagrangian", "pid"),
    "TRPO": ("trpo", None),
    "TRPO-Lagrangian": ("trpo_lagrangian", "adam"),
    "TRPO-PID": ("trpo_lagrangian", "pid"),
    "CPO": ("cpo", None),
    "FOCOPS": ("focops", None),
    "P3O": ("p3o", None),
    "CRPO": ("crpo", None),
    "PPO, fixed penalty": ("ppo_fixed", None),
    "PPOSaute": ("ppo_saute", None),
    "PPOEarlyTerminated": ("ppo_early_terminated", None),
    "TRPOSaute": ("trpo_saute", None),
    "TRPOEarlyTerminated": ("trpo_early_terminated", None),
}


def budget(task: str) -> int:
    """Environment steps of the paper's runs."""
    return 100_000_000 if task.startswith("Doggo") else 10_000_000


def normalize(task: str, episode_return: float, cost: float, cost_rate: float) -> tuple[float, float, float]:
    """Return, constraint violation and cost rate relative to unconstrained PPO: Ray et al. 2019, section 5.

    Args:
        task: of SG18.
        episode_return: at the end of training.
        cost: of an episode, at the end of training.
        cost_rate: mean cost per step over all of training.
    """
    reference_return, reference_cost, reference_rate = CHARACTERISTIC[task]
    violation = max(0.0, cost - COST_LIMIT) / max(1e-6, reference_cost - COST_LIMIT)
    return episode_return / reference_return, violation, cost_rate / reference_rate


def read_all(path: Path) -> list[Row]:
    """Every row, in the order in which they were appended."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def read(path: Path) -> list[Row]:
    """The newest row of every seed of a task, method, preset, cost limit and number of steps."""
    names = "task", "algorithm", "multiplier", "preset", "cost_limit", "steps", "seed"
    return list({tuple(row[name] for name in names): row for row in read_all(path)}.values())


def method(row: Row) -> str:
    """The published name of what a row trained."""
    for name, (algorithm, law) in METHODS.items():
        if row["algorithm"] == algorithm and law in (None, row["multiplier"]):
            return name
    return row["algorithm"]


def page(rows: list[Row]) -> str:
    """The page, in Markdown."""
    parts = [
        "<!-- Written by `python -m benchmarks.learning`. -->",
        "# Learning",
        "`python -m benchmarks.learning` trains agents and evaluates them; this page shows what it has measured beside "
        "what others have published. A cell is return / cost / cost rate: of an episode at the end of training, and "
        "per step over all of training. The limit is 25. Published rows of OmniSafe and SafePO are of mean actions, on "
        "Safety-Gymnasium's versions of the tasks, and have no cost rate; beside them are ours of mean actions, over "
        "100 whole episodes a seed, also where training breaks episodes off at the limit (EarlyTerminated). *missing* "
        "is what nobody has run here yet. "
        "In brackets is the preset that was trained: see `agents/config.py`.",
        "## The paper's metrics",
        "Relative to unconstrained PPO, averaged over the tasks of a slate: return / violation / cost rate. More "
        "return is better, less of the others. In brackets are 95 % stratified bootstrap intervals of the "
        "mean over runs.",
        *(_slate(name, rows) for name in ("SG6", "SGPoint", "SG18")),
    ]
    for task in SLATES["SG18"]:
        parts += [f"## {task}", _task(task, rows)]
        ours = [row for row in rows if row["task"] == task]
        parts += [_detail(ours)] if ours else []
    parts += ["## Sources", "\n".join(f"- {name}: {text}." for name, text in PUBLISHED["sources"].items())]
    return "\n\n".join(parts) + "\n"


def _runs(task: str, name: str, rows: list[Row]) -> dict[str, list[Row]]:
    """By preset the rows that compare with the published ones: the same limit, and as many steps to 1 %.

    Seeds of one setting only: where a preset was run with several numbers of steps, those with the most seeds.
    """
    groups: dict[str, dict[int, list[Row]]] = {}
    for row in rows:
        full = 0.99 * budget(task) <= row["steps"] <= 1.01 * budget(task)
        if full and row["cost_limit"] == COST_LIMIT and row["task"] == task and method(row) == name:
            groups.setdefault(row["preset"], {}).setdefault(row["steps"], []).append(row)
    return {preset: max(by_steps.values(), key=len) for preset, by_steps in sorted(groups.items())}


def _slate(slate: str, rows: list[Row]) -> str:
    tasks = SLATES[slate]
    table = []
    for name in METHODS:
        published = PUBLISHED["aggregates"].get(slate, {}).get(name) or _normalized_starter(tasks, name)
        table.append((name, _ours_normalized(tasks, name, rows), _triple(published) if published else ""))
    return f"**{slate}**: {', '.join(tasks)}\n\n" + _markdown(("method", "ours", "published"), table)


def _ours_normalized(tasks: tuple[str, ...], name: str, rows: list[Row]) -> str:
    runs = {task: _runs(task, name, rows) for task in tasks}
    presets = sorted({preset for found in runs.values() for preset in found})
    missing = {preset: sum(preset not in found for found in runs.values()) for preset in presets}
    complete = [preset for preset in presets if not missing[preset]]
    if not complete:
        return f"*missing* {min(missing.values(), default=len(tasks))} of {len(tasks)} tasks"
    cells = [_normalized({task: found[preset] for task, found in runs.items()}, preset) for preset in complete]
    return "<br>".join(cells)


def _normalized(runs: dict[str, list[Row]], preset: str) -> str:
    """Mean over tasks and as many runs of each as there are of all of them."""
    fewest = min(map(len, runs.values()))
    scores = np.array(
        [
            [normalize(task, *(row["train"][key] for key in ("return", "cost", "cost_rate"))) for row in found[:fewest]]
            for task, found in runs.items()
        ]
    )  # [tasks, runs, metrics]
    cells = []
    for i in range(3):
        ends = aggregate.interval(scores[..., i], statistic=aggregate.mean)
        cells.append(f"{scores[..., i].mean():.3f}" + (f" [{ends[0]:.3f}, {ends[1]:.3f}]" if ends else ""))
    return f"{' / '.join(cells)} ({preset}, {fewest} seeds)"


def _normalized_starter(tasks: tuple[str, ...], name: str) -> list[float] | None:
    found = {row["task"]: row for row in PUBLISHED["rows"] if row["source"] == SOURCES[0] and row["algorithm"] == name}
    if not set(tasks) <= found.keys():
        return None
    scores = [normalize(task, *(found[task][key] for key in ("return", "cost", "cost_rate"))) for task in tasks]
    return [float(score) for score in np.mean(scores, 0)]


def _task(task: str, rows: list[Row]) -> str:
    table = []
    published = {(row["source"], row["algorithm"]): row for row in PUBLISHED["rows"] if row["task"] == task}
    others = {name for _, name in published} - METHODS.keys()
    for name in (*METHODS, *sorted(others)):
        found = _runs(task, name, rows)
        ours = [f"{_mean(runs, 'train')} ({preset}, {len(runs)} seeds)" for preset, runs in found.items()]
        greedy = [_mean(runs, "deterministic") for runs in found.values()]
        cells = [_cell(published.get((source, name))) for source in SOURCES]
        if name in METHODS or any(cells):
            missing = "*missing*" if name in METHODS else ""
            table.append((name, "<br>".join(ours) or missing, "<br>".join(greedy), *cells))
    return _markdown(("method", "ours", "ours, mean actions", *SOURCES), table)


def _mean(runs: list[Row], part: str) -> str:
    """The cell of our runs: "train", the end of training, or an evaluation."""
    names = [name for name in ("return", "cost", "cost_rate") if name in runs[0][part]]
    return _cell({name: float(np.mean([row[part][name] for row in runs])) for name in names})


def _detail(rows: list[Row]) -> str:
    """Our runs of a task in full: one line per method, preset, limit and number of steps."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault((method(row), row["preset"], row["cost_limit"], row["steps"]), []).append(row)
    table = []
    for (name, preset, cost_limit, steps), runs in sorted(groups.items(), key=str):
        evaluated = [
            f"{_iqm(row[mode]['return'] for row in runs)} / {_iqm(row[mode]['cost'] for row in runs)}"
            for mode in ("stochastic", "deterministic")
        ]
        end = " / ".join(_iqm(row["train"][key] for row in runs) for key in ("return", "cost"))
        rate = f"{np.mean([row['train']['cost_rate'] for row in runs]):.4f}"
        known = [row["last_quarter_cost"] for row in runs if row["last_quarter_cost"] is not None]
        last = _iqm(known) if known else ""
        # Rows of a machine that was busy have none.
        speeds = [row["steps_per_second"] for row in runs if "steps_per_second" in row]
        speed = f"{np.mean(speeds):,.0f}" if speeds else ""
        start = name, preset, f"{cost_limit:g}", f"{steps:.3g}", str(len(runs))
        table.append((*start, end, rate, last, *evaluated, speed, runs[-1]["commit"] or ""))
    header = ("method", "preset", "limit", "steps", "seeds", "end of training", "cost rate", "cost of the last quarter")
    header += ("100 episodes, sampled", "100 episodes, mean actions", "steps/s", "commit")
    return _markdown(header, table)


def _iqm(values: Iterable[float]) -> str:
    scores = np.array(list(values))
    ends = aggregate.interval(scores[None])
    return f"{aggregate.iqm(scores):.1f}" + (f" [{ends[0]:.1f}, {ends[1]:.1f}]" if ends else "")


def _cell(row: Row | None) -> str:
    if row is None:
        return ""
    rate = f" / {row['cost_rate']:.4f}" if "cost_rate" in row else ""
    return f"{row['return']:.2f} / {row['cost']:.1f}{rate}"


def _triple(values: Iterable[float]) -> str:
    return " / ".join(f"{value:.3f}" for value in values)


def _markdown(header: tuple[str, ...], table: Iterable[tuple[str, ...]]) -> str:
    lines = [header, tuple("---" for _ in header), *table]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
