"""The complete training state on disk, written atomically and verified when it is read back."""

import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

KEEP = 3


class Checkpoints:
    """Checkpoints of one run, numbered by the updates done; the newest KEEP are kept.

    Saving copies the state to host memory and returns; the files are written while training goes on, and only a
    complete checkpoint ever becomes visible under its number.
    """

    def __init__(self, directory: Path):
        options = ocp.CheckpointManagerOptions(max_to_keep=KEEP, create=True)
        self.directory = directory.absolute()
        self._manager = ocp.CheckpointManager(self.directory, options=options)

    def save(self, num_updates: int, state: Any) -> None:
        """Start writing `state`; waits for the previous checkpoint first."""
        # Owned copies: on the CPU a view would alias a buffer that the next donated call overwrites.
        arrays = jax.tree.map(lambda x: np.array(x), _key_data(state))
        items = {"state": ocp.args.StandardSave(arrays), "digest": ocp.args.JsonSave({"crc32": _crc32(arrays)})}
        self._manager.save(num_updates, args=ocp.args.Composite(**items), force=True)

    def restore_latest(self, template: Any) -> Any | None:
        """The newest readable state, or None where there is none.

        A checkpoint that cannot be read, or whose content is not what was saved, is named in a warning and removed.

        Args:
            template: a pytree of jax.ShapeDtypeStruct, as from `jax.eval_shape`.
        """
        abstract = jax.eval_shape(_key_data, template)
        items = {"state": ocp.args.StandardRestore(abstract), "digest": ocp.args.JsonRestore()}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = self._manager.restore(step, args=ocp.args.Composite(**items))
                if restored["digest"]["crc32"] != _crc32(restored["state"]):
                    raise ValueError("its content does not match its checksum")
            except Exception as error:  # whatever the storage layer raises on a damaged file
                reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
                warnings.warn(f"skipping damaged checkpoint {self.directory / str(step)}: {reason}", stacklevel=2)
                self._manager.delete(step)
                continue
            return jax.tree.map(_restore_leaf, template, restored["state"])
        return None

    def close(self) -> None:
        """Wait until everything is on disk."""
        self._manager.close()


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _key_data(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.random.key_data(x) if _is_key(x) else x, tree)


def _restore_leaf(like: Any, x: Any) -> jax.Array:
    array = jnp.array(x)
    return jax.random.wrap_key_data(array) if _is_key(like) else array


def _crc32(tree: Any) -> int:
    crc = 0
    for leaf in jax.tree.leaves(tree):
        crc = zlib.crc32(np.ascontiguousarray(leaf).tobytes(), crc)
    return crc
