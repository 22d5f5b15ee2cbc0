"""The complete training state on disk, written atomically and verified when it is read back.

What is stored does not depend on the devices that computed it: arrays are gathered before they are written by
process 0, and handed to all processes when they are read.
"""

import shutil
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from agents import hosts
from agents.run_directory import DamagedRun

KEEP = 3


class Checkpoints:
    """Checkpoints of one run, numbered by the updates done; the newest KEEP are kept.

    Saving copies the state to host memory and returns; the files are written while training goes on, and only a
    complete checkpoint ever becomes visible under its number. All processes call every method together.
    """

    def __init__(self, directory: Path):
        self.directory = directory.absolute()
        self._manager = None
        if hosts.is_first():
            self.directory.mkdir(parents=True, exist_ok=True)
            alone = ocp.options.MultiprocessingOptions(primary_host=0, active_processes={0})
            options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=False, multiprocessing_options=alone)
            self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, num_updates: int, state: Any) -> None:
        """Start writing `state`; waits for the previous checkpoint first."""
        arrays = hosts.to_host(state)
        if self._manager is not None:
            digest = {"crc32": _crc32(arrays), "leaves": _leaves(arrays)}
            items = {"state": ocp.args.StandardSave(arrays), "digest": ocp.args.JsonSave(digest)}
            self._manager.save(num_updates, args=ocp.args.Composite(**items), force=True)

    def restore_latest(self, template: Any) -> Any | None:
        """The newest readable state as numpy arrays, keys as their data; None where there is none.

        A newer checkpoint that cannot be read, or whose content is not what was saved, is named in a warning and moved
        aside to damaged-<number>. Where none can be read, all stay where they are.

        Args:
            template: a pytree of jax.ShapeDtypeStruct, as from `jax.eval_shape`.

        Raises:
            ValueError: there are checkpoints, but none that can be read, or of a state that does not fit the template.
        """
        return hosts.on_first(lambda: self._read_latest(jax.eval_shape(hosts.key_data, template)))

    def close(self) -> None:
        """Wait until everything is on disk."""
        if self._manager is not None:
            self._manager.close()

    def _read_latest(self, template: Any) -> Any | None:
        assert self._manager is not None
        steps = sorted((int(p.name) for p in self.directory.iterdir() if p.name.isdecimal()), reverse=True)
        reasons: dict[int, str] = {}
        for step in steps:
            try:
                digest = self._read(step, "digest", ocp.args.JsonRestore())
                leaves = digest.get("leaves")
            except Exception as error:  # whatever the storage layer raises on a damaged file
                reasons[step] = _first_line(error)
                continue
            if leaves != _leaves(template):
                raise DamagedRun(
                    f"checkpoint {self.directory / str(step)} was made by another environment or version: "
                    f"{_difference(leaves or {}, _leaves(template))}"
                )
            try:
                empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
                state = self._read(step, "state", ocp.args.StandardRestore(empty))
                if digest["crc32"] != _crc32(state):
                    raise ValueError("its content does not match its checksum")
            except Exception as error:
                reasons[step] = _first_line(error)
                continue
            for damaged, reason in reasons.items():
                self._move_aside(damaged, reason)
            return state
        if steps:
            why = "; ".join(f"{step}: {reason}" for step, reason in reasons.items())
            raise DamagedRun(f"no checkpoint in {self.directory} can be read ({why}): name another --run-dir")
        return None

    def _read(self, step: int, item: str, how: Any) -> Any:
        assert self._manager is not None
        return self._manager.restore(step, args=ocp.args.Composite(**{item: how}))[item]

    def _move_aside(self, step: int, reason: str) -> None:
        assert self._manager is not None
        path, aside = self.directory / str(step), self.directory / f"damaged-{step}"
        warnings.warn(f"skipping damaged checkpoint {path}: {reason}; it is now {aside.name}", stacklevel=2)
        shutil.rmtree(aside, ignore_errors=True)  # of an earlier attempt at the same update
        path.rename(aside)
        self._manager.reload()


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__


def _leaves(tree: Any) -> dict[str, str]:
    """Shape and type of every leaf by its path, as JSON keeps them."""
    leaves, _ = jax.tree.flatten_with_path(tree)
    return {jax.tree_util.keystr(path): f"{np.dtype(leaf.dtype)}{list(leaf.shape)}" for path, leaf in leaves}


def _difference(there: dict[str, str], here: dict[str, str]) -> str:
    """The first leaf in which two states differ."""
    name = next(name for name in {**here, **there} if there.get(name) != here.get(name))
    return f"{name} is {there.get(name, 'missing')} there but {here.get(name, 'missing')} here"


def _crc32(tree: Any) -> int:
    crc = 0
    for leaf in jax.tree.leaves(tree):
        crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
    return crc
