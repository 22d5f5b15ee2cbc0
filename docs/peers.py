"""The page, the picture and the README's table of the comparison with peers, from the newest of its rows."""

from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt

from benchmarks.peers import CRAX, OMNISAFE, SAFETY_GYMNASIUM, STEPPING, TRAINING, VECTOR
from docs.tables import results, table, versions

Row = dict[str, Any]

HEAD = """# Beside others

Environment steps per second, resets included, medians of rounds in which ours and theirs take turns on an idle
machine: on one core ours steps a batch under random actions with auto-reset, Safety-Gymnasium one environment in one
process, or one in each of its vector environment's processes, one to a core; CRAX steps a batch of its own point's goal
task. Its physics steps are longer; the last column compares physics steps. Below, TRPO-Lagrangian learning, ours with
the `cpu` preset on all cores, OmniSafe's with its own settings but for one thread instead of 16. Ratios are medians
within rounds.

![times as fast as the others](pictures/peers.png)

"""
FOOT = """
Measured by `python -m benchmarks.peers`, which makes a virtual environment for each peer, on Python 3.11. Its results
are appended to `benchmarks/results/peers.jsonl`; the newest of each task are above.
"""
BEGIN, END = "<!-- peers: written by `python -m docs` -->\n", "<!-- /peers -->"


def page() -> str:
    """docs/peers.md without its first line."""
    lines = [
        (f"`{row['task']}`", _name(row), *(_numbers(row) if not row["missing"] else ("missing", *[""] * 5)))
        for rows in newest()
        for row in rows
    ]
    head = "task", "program", "at once", "steps/s", "physics steps/s", "physics step", "ours is x", "per physics step"
    return HEAD + table(head, lines) + "\n" + _measured() + FOOT


def summary() -> str:
    """The README's table."""
    stepping = {rows[0]["task"]: {row["benchmark"]: row for row in rows} for rows in newest() if not _learns(rows)}
    lines = []
    for task, by in stepping.items():
        ratio = by.get(SAFETY_GYMNASIUM, {}).get("ours_to_it")
        rates = [_rate(by.get(name)) for name in (STEPPING, SAFETY_GYMNASIUM, VECTOR, CRAX)]
        lines.append((task, *rates, f"{_round(ratio)} x" if ratio else ""))
    for ours, *theirs in filter(_learns, newest()):
        for row in theirs:
            ratio = f"{_round(row['ours_to_it'])} x" if not row["missing"] else ""
            rate = f"{_rate(row)}, OmniSafe's" if ratio else ""
            lines.append((f"TRPO-Lagrangian learning {ours['task']}", _rate(ours), rate, "", "", ratio))
    ours = f"ours, {_at_once(STEPPING)} at once, learning {_at_once(TRAINING)}"
    theirs = "Safety-Gymnasium, one process", "one process per core"
    crax = f"CRAX, {_at_once(CRAX)} at once, 80 ms instead of 20 a step"
    return table(("", ours, *theirs, crax, "ours : one process"), lines)


def write_summary(readme: Path) -> None:
    """Puts the table between its marks."""
    before, begin, rest = readme.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"{readme} needs the lines {BEGIN.strip()} and {END}, between which the table goes.")
    readme.write_text(before + begin + summary() + end + after)


def newest() -> list[list[Row]]:
    """The rows of each task's last run on a CPU, ours first; learning comes after stepping."""
    runs: dict[tuple[str, str], list[Row]] = {}
    for row in (row for row in results("peers") if row["backend"] == "cpu"):
        runs.setdefault((row["task"], row["date"]), []).append(row)
    last = {(_learns(rows), task): rows for (task, _), rows in sorted(runs.items(), key=lambda run: run[0][1])}
    return sorted(last.values(), key=lambda rows: (_learns(rows), -rows[0]["env_steps_per_s"]))


def draw(path: Path) -> None:
    """How many times as many steps ours takes as each of the others."""
    rows = [row for rows in newest() for row in rows[1:] if not row["missing"]]
    figure, axis = plt.subplots(figsize=(7, 0.5 + 0.32 * len(rows)), layout="constrained")
    bars = axis.barh([f"{_name(row)}, {row['task']}" for row in rows], [row["ours_to_it"] for row in rows])
    axis.bar_label(bars, [_round(row["ours_to_it"]) for row in rows], padding=3)
    axis.set(xscale="log", xlabel="environment steps of ours for one of theirs")
    axis.margins(x=0.25)
    axis.invert_yaxis()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _at_once(benchmark: str) -> str:
    """Batch sizes of a program in those rows."""
    rows = [row for rows in newest() for row in rows if row["benchmark"] == benchmark and not row["missing"]]
    return " or ".join(dict.fromkeys(f"{row['num_envs']:,}" for row in rows))


def _learns(rows: list[Row]) -> bool:
    return rows[0]["benchmark"] == TRAINING


def _name(row: Row) -> str:
    names = {
        STEPPING: "ours",
        TRAINING: "ours, learning",
        SAFETY_GYMNASIUM: "Safety-Gymnasium, one process",
        VECTOR: f"Safety-Gymnasium, {row['cpu_count']} processes",
        CRAX: "CRAX",
        OMNISAFE: "OmniSafe, learning",
    }
    return names[row["benchmark"]]


def _numbers(row: Row) -> tuple[str, ...]:
    low, high = (_round(row[f"env_steps_per_s_{end}"]) for end in ("min", "max"))
    return (
        f"{row['num_envs']:,}",
        f"{_round(row['env_steps_per_s'])} ({low} to {high})",
        _round(row["physics_steps_per_s"]),
        f"{1000 * row['physics_timestep_s']:g} ms",
        _round(row["ours_to_it"]),
        _round(row["ours_to_it_physics"]),
    )


def _rate(row: Row | None) -> str:
    return _round(row["env_steps_per_s"]) if row and not row["missing"] else ""


def _round(value: float) -> str:
    """Three significant digits."""
    return f"{float(f'{value:.3g}'):,.10g}"


def _measured() -> str:
    """What was measured when and with what."""
    lines = []
    for rows in newest():
        ours = versions(rows[0]["versions"])
        theirs = [versions(row["peer_versions"]) for row in rows[1:] if not row["missing"]]
        machine = f"{rows[0]['cpu_count']} cores, {rows[0]['device']}"
        beside = "; ".join(dict.fromkeys(theirs))
        what = f"{rows[0]['task']}, learning" if _learns(rows) else rows[0]["task"]
        lines.append((what, f"`{rows[0]['commit']}`", rows[0]["date"][:10], machine, ours, beside))
    return table(("task", "commit", "date", "machine", "versions", "theirs"), lines)
