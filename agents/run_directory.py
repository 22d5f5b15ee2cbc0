"""The files of a run: what is in config.json and metrics.jsonl, and how an interrupted run is taken up again."""

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from agents.config import Config
from agents.loop import METRICS

PARTIAL = ".partial"  # of a file that was being written when the process died
CONFIG, METRICS_FILE, TIMING = "config.json", "metrics.jsonl", "timing.jsonl"


class DamagedRun(ValueError):
    """What is on disk of a run does not let it go on; the message says why."""


def check_free(run_dir: Path, task: str | None, config: Config, resume: bool) -> None:
    """Raise what speaks against training in `run_dir`, before anything is written there.

    Args:
        run_dir: a new or empty directory; with `resume` also one that holds a run of the same task and settings.
        task: registered id, or None for an environment that has none.
        config: the settings asked for.
        resume: continue what is there; a directory without a run starts one.

    Raises:
        FileExistsError: the directory is in use and `resume` is False.
        ValueError: the run that is there has another task or other settings, or its config.json is damaged.
    """
    if resume and (run_dir / CONFIG).exists():
        check_same(run_dir, *read_config(run_dir), task, config)
    elif run_dir.exists() and (not run_dir.is_dir() or not all(p.match(f".*{PARTIAL}") for p in run_dir.iterdir())):
        if resume:
            raise ValueError(f"{run_dir} holds no run to resume ({CONFIG} is missing): name another --run-dir")
        raise FileExistsError(f"{run_dir} is not empty: add --resume to continue its run, or name another --run-dir")


def open_run(run_dir: Path, task: str | None, config: Config, resume: bool) -> None:
    """Make `run_dir` ready for training; arguments and refusals as in `check_free`.

    Raises:
        OSError: the directory cannot be written.
    """
    check_free(run_dir, task, config, resume)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        write_atomically(
            run_dir / CONFIG, json.dumps({"task": task, "config": dataclasses.asdict(config)}, indent=2) + "\n"
        )
    except OSError as error:
        raise type(error)(f"cannot write to run directory {run_dir}: {error.strerror}") from None


def read_config(run_dir: Path) -> tuple[str | None, Config]:
    """Task id and settings of a run."""
    try:
        saved = json.loads((run_dir / CONFIG).read_text())
        return saved["task"], Config(**saved["config"])
    except FileNotFoundError:
        raise FileNotFoundError(f"{run_dir} is not a run directory: it has no {CONFIG}") from None
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedRun(f"{run_dir / CONFIG} is damaged: {error}") from None


def check_same(run_dir: Path, saved_task: str | None, saved: Config, task: str | None, config: Config) -> None:
    """Raise a ValueError naming every setting in which a run on disk differs from the one asked for."""
    old = {"task": saved_task, **dataclasses.asdict(saved)}
    new = {"task": task, **dataclasses.asdict(config)}
    changes = [f"{name} is {old[name]!r} there but {new[name]!r} here" for name in old if old[name] != new[name]]
    if changes:
        raise ValueError(f"cannot resume {run_dir} with other settings: {'; '.join(changes)}")


def write_atomically(path: Path, text: str) -> None:
    """Replace a file in one step: a reader, or a killed writer, leaves the old or the new content."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    partial.write_text(text)
    os.replace(partial, path)


def rows_of_chunk(
    config: Config, first_update: int, num_updates: int, metrics: dict[str, np.ndarray]
) -> list[dict[str, Any]]:
    """metrics.jsonl rows, update by update and agent by agent, of metrics [updates, agents].

    Totals over finished episodes become means, null where none finished; so does any number that is not finite.
    """
    rows = []
    for i in range(num_updates):
        for agent, setting in enumerate(config.agents):
            values = {name: float(metrics[name][i, agent]) for name in METRICS}
            episodes = int(values.pop("episodes")) if math.isfinite(values["episodes"]) else 0
            totals = [values.pop(f"episode_{name}") for name in ("return", "cost", "goals")]
            means = [total / episodes if episodes else math.nan for total in totals]
            row = {
                "update": first_update + i + 1,
                "env_steps": (first_update + i + 1) * config.batch_size,
                **setting,
                "episodes": episodes,
                **dict(zip(("return", "cost", "goals"), means, strict=True)),
                **values,
            }
            rows.append({k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in row.items()})
    return rows


def append_rows(path: Path, rows: list[dict[str, Any]]) -> None:
    """Append JSON lines and hand them to the operating system."""
    with path.open("a") as file:
        file.writelines(json.dumps(row, allow_nan=False) + "\n" for row in rows)


def truncate_rows(path: Path, count: int) -> None:
    """Keep the first `count` lines of a JSON lines file; a killed run may have written more, the last one in part."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    if len(lines) < count or (count and not lines[count - 1].endswith("\n")):
        raise DamagedRun(f"{path} has lost rows: the last checkpoint follows {count}, only {len(lines)} are left")
    write_atomically(path, "".join(lines[:count]))


def truncate_timing(path: Path, done: int) -> None:
    """Keep the rows of updates up to `done`; a killed run may have written more, the last one in part."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    whole = [line for line in lines if line.endswith("\n")]
    write_atomically(path, "".join(line for line in whole if json.loads(line)["update"] <= done))


def read_metrics(run_dir: str | Path, num_agents: int) -> dict[str, np.ndarray]:
    """metrics.jsonl as arrays [updates, agents], null as NaN."""
    rows = [json.loads(line) for line in (Path(run_dir) / METRICS_FILE).read_text().splitlines()]
    names = rows[0] if rows else ()
    arrays = {name: np.array([math.nan if row[name] is None else row[name] for row in rows]) for name in names}
    return {name: array.reshape(-1, num_agents) for name, array in arrays.items()}
