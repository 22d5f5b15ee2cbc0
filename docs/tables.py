"""What pages and pictures share: tables, and the rows that benchmarks have left."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent.parent / "benchmarks" / "results"


def results(name: str) -> list[dict[str, Any]]:
    """Rows that a benchmark has left."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(head: tuple[Any, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(str(x) for x in line) + " |\n" for line in lines)


def versions(of: dict[str, str | None]) -> str:
    """The versions of what is there, in words."""
    return ", ".join(f"{name} {version}" for name, version in of.items() if version)
