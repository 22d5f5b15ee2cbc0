"""How many kernels a program launches: counted in the text of its optimized HLO, or as a GPU runs them."""

import gzip
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jax

# These launch nothing themselves: loops, branches and calls count as what is in them, unless a CPU takes it in one go.
_SILENT = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "opt-barrier"}
_HOLDERS = {"while", "conditional", "call"}
_HEAD = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?[\w.\-]+ = .*?(?:^|[\s)\]}])([a-z][a-z0-9\-]*)\((.*)$")
_HELD = re.compile(r"(?:body|condition|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_ONE_GO = re.compile(r'xla_cpu_small_call="?true')
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Kernels(NamedTuple):
    """Of one pass through a program; what is in a loop counts once.

    Attributes:
      outside: of loops: launched always.
      loops: within them: launched as often as they run, or not at all.
    """

    outside: int
    loops: int


def launched(work: Callable[[int], None], units: int = 4) -> dict[str, float] | None:
    """What a GPU runs for a unit of work: how many kernels and copies, and for how long in all; None without a GPU.

    Args:
      work: does that many units and waits for their end.
      units: to take the mean of.
    """
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            work(units)
        traces = [json.loads(gzip.decompress(path.read_bytes())) for path in Path(folder).rglob("*.trace.json.gz")]
    events = [event for trace in traces for event in of_gpu(trace["traceEvents"])]
    if not events:
        return None
    return {"kernels": len(events) / units, "busy_s": sum(event["dur"] for event in events) / 1e6 / units}


def of_gpu(events: list[dict]) -> list[dict]:
    """Those of a profiler's events that are kernels and copies on a GPU's streams; durations "dur" in microseconds."""
    gpus = {event["pid"] for event in events if "/device:GPU" in str(event.get("args", {}).get("name"))}
    streams = {
        (event["pid"], event["tid"])
        for event in events
        if event.get("name") == "thread_name" and event["pid"] in gpus and "Stream" in event["args"]["name"]
    }
    return [event for event in events if event.get("ph") == "X" and (event["pid"], event["tid"]) in streams]


def of_loop(text: str) -> Kernels:
    """Of one pass through the body and the condition of the one loop in a program's entry.

    Args:
      text: of the program, `compiled.as_text()`.

    Raises:
      ValueError: the entry has no loop, or several.
    """
    entry, computations = _read(text)
    loops = [rest for opcode, rest in computations[entry] if opcode == "while"]
    if len(loops) != 1:
        raise ValueError(f"The program's entry has {len(loops)} loops; kernels are counted in the one that it has.")
    counts = [_count(computations, name, 0) for name in _held(loops[0])]
    return Kernels(*map(sum, zip(*counts, strict=True)))


def _read(text: str) -> tuple[str, dict[str, list[tuple[str, str]]]]:
    """The entry's name, and the instructions of every computation: operation, and the rest of the line."""
    entry, name, computations = "", "", {}
    for line in text.splitlines():
        if head := _HEAD.match(line):
            name = head[2]
            computations[name] = []
            entry = name if head[1] else entry
        elif name and (instruction := _INSTRUCTION.match(line)):
            computations[name].append((instruction[1], instruction[2]))
    return entry, computations


def _count(computations: dict[str, list[tuple[str, str]]], name: str, depth: int) -> Kernels:
    counts = [0, 0]
    for opcode, rest in computations[name]:
        if opcode in _HOLDERS and not _ONE_GO.search(rest):
            for held in _held(rest):
                inner = _count(computations, held, depth + (opcode == "while"))
                counts = [a + b for a, b in zip(counts, inner, strict=True)]
        elif opcode not in _SILENT and not opcode.endswith("-done"):
            counts[depth > 0] += 1
    return Kernels(*counts)


def _held(rest: str) -> list[str]:
    """Names of the computations that an instruction runs."""
    branches = _BRANCHES.search(rest)
    return _HELD.findall(rest) + (re.findall(r"%?([\w.\-]+)", branches[1]) if branches else [])
