"""Functions of one environment that are worked off for a whole batch at once."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap


def batched(many: Callable[..., Any], one: Callable[..., Any] | None = None) -> Callable[..., Any]:
    """A function of one environment; under `vmap`, nested or not, `many` sees all environments as one batch.

    Args:
      many: pytrees of arrays with a leading axis [num_envs] to a pytree of such arrays.
      one: the same without that axis, which also takes a batch of one. None: `many` takes that.
    """

    @custom_vmap
    def batch(*args):
        if one is not None and len(jax.tree.leaves(args)[0]) == 1:
            return jax.tree.map(lambda x: x[None], one(*jax.tree.map(lambda x: x[0], args)))
        return many(*args)

    @batch.def_vmap
    def _(size, is_batched, *args):
        args = _spread(size, is_batched, args)
        out = batch(*jax.tree.map(lambda x: x.reshape((size * x.shape[1], *x.shape[2:])), args))
        return _all(jax.tree.map(lambda x: x.reshape((size, x.shape[0] // size, *x.shape[1:])), out))

    @custom_vmap
    def single(*args):
        if one is not None:
            return one(*args)
        return jax.tree.map(lambda x: x[0], batch(*jax.tree.map(lambda x: jnp.asarray(x)[None], args)))

    @single.def_vmap
    def _(size, is_batched, *args):
        return _all(batch(*_spread(size, is_batched, args)))

    return single


def _spread(size: int, is_batched: Any, args: tuple) -> Any:
    def leaf(batched: bool, x: Any) -> Any:
        return x if batched else jnp.broadcast_to(x, (size, *jnp.shape(x)))

    return jax.tree.map(leaf, tuple(is_batched), args)


def _all(out: Any) -> tuple[Any, Any]:
    return out, jax.tree.map(lambda _: True, out)
