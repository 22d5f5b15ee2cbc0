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
            items = {"state": ocp.args.StandardSave(arrays), "digest": ocp.args.JsonSave({"crc32": _crc32(arrays)})}
            self._manager.save(num_updates, args=ocp.args.Composite(**items), force=True)

    def restore_latest(self, template: Any) -> Any | None:
        """The newest readable state as numpy arrays, keys as their data; None where there is none.

        A checkpoint that cannot be read, or whose content is not what was saved, is named in a warning and removed.

        Args:
            template: a pytree of jax.ShapeDtypeStruct, as from `jax.eval_shape`.
        """
        return hosts.on_first(lambda: self._read_latest(jax.eval_shape(hosts.key_data, template)))

    def close(self) -> None:
        """Wait until everything is on disk."""
        if self._manager is not None:
            self._manager.close()

    def _read_latest(self, template: Any) -> Any | None:
        assert self._manager is not None
        empty = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), template)
        items = {"state": ocp.args.StandardRestore(empty), "digest": ocp.args.JsonRestore()}
        for step in sorted((int(p.name) for p in self.directory.iterdir() if p.name.isdecimal()), reverse=True):
            path = self.directory / str(step)
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**items))
                state = restored["state"]
                if restored["digest"]["crc32"] != _crc32(state):
                    raise ValueError("its content does not match its checksum")
            except Exception as error:  # whatever the storage layer raises on a damaged file
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                warnings.warn(f"skipping damaged checkpoint {path}: {reason}", stacklevel=2)
                shutil.rmtree(path)
                self._manager.reload()
                continue
            return state
        return None


def _crc32(tree: Any) -> int:
    crc = 0
    for leaf in jax.tree.leaves(tree):
        crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
    return crc
