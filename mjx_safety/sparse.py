"""A conditional that stays a conditional under `vmap`: only the environments that need the work do it.

`jax.lax.cond` becomes a select when it is batched, so every environment pays for both branches. Most of what an
environment step may have to do is rare: a new episode, a new goal, a collision. `cond` gathers the environments
whose predicate holds into chunks, runs the function on one chunk after the other in a `while_loop`, and
scatters the results back. With nothing to do the loop does not run at all. `loop` is for loops that take one
environment more rounds than another. A batch of one is no batch: it takes the branch, or the rounds, that it needs.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from mjx_safety import spatial
from mjx_safety.batching import batched

WORTH = 1 / 3  # share of a large chunk that must need the work, measured with the push box's solver
LANES = 8  # float32 in a CPU's vector: what is left over takes a loop of its own, slower and rounded otherwise


def cond(
    pred: jax.Array, fn: Callable[..., Any], args: tuple, otherwise: Any, *, fraction: int, larger: int = 1
) -> Any:
    """`fn(*args)` where `pred` holds, else `otherwise`.

    Args:
      pred: bool [], one environment's predicate; users batch with `vmap`, once or nested.
      fn: pure function of one environment; it must not close over traced values.
      args: pytree of the function's arguments.
      otherwise: pytree with the structure, shapes and dtypes of `fn`'s result.
      fraction: a batch of N is worked off in chunks of about N / fraction, a multiple of `LANES`: about the share that
        needs the work.
      larger: chunks are so many times as large while there is enough for them; `fn` is then compiled twice.

    Returns:
      A pytree like `otherwise`.
    """

    def many(pred, args, otherwise):
        return batch_cond(pred, fn, args, otherwise, fraction=fraction, larger=larger)

    def one(pred, args, otherwise):
        return jax.lax.cond(pred, lambda: fn(*args), lambda: otherwise)

    return batched(many, one)(pred, args, otherwise)


def loop(pending: Callable[[Any], jax.Array], work: Callable[..., Any], start: Any, *fixed: Any, fraction: int) -> Any:
    """`jax.lax.while_loop` of one environment; in a batch, chunks of those that are still pending take another round.

    While many are pending the chunk is the whole batch: as with `vmap`, all take the round, and those that are done
    keep what they have.

    Args:
      pending: pure function of one environment's carry: whether it goes on, bool [].
      work: pure function of one environment from carry, and `fixed`, to carry; neither may close over traced values.
      start: carry, a pytree of arrays.
      fixed: pytrees of arrays that stay as they are.
      fraction: as of `cond`.

    Returns:
      The last carry.
    """

    def advance_pending(carry, *fixed):
        goes = pending(carry)
        return jax.tree.map(lambda new, old: jnp.where(goes, new, old), work(carry, *fixed), carry)

    def many(start, *fixed):
        num = len(jax.tree.leaves(start)[0])

        def advance(size, carry):
            if size == num:
                return jax.vmap(advance_pending)(carry, *fixed)
            rows, _ = in_need(jax.vmap(pending)(carry), 0)
            return _replace(carry, rows[:size], work, carry, *fixed)

        sizes = {num, chunk(num, fraction)}
        return _in_chunks(sizes, lambda carry: jax.vmap(pending)(carry).sum(), advance, start)

    def one(start, *fixed):
        return jax.lax.while_loop(pending, lambda carry: work(carry, *fixed), start)

    return batched(many, one)(start, *fixed)


def batch_cond(
    pred: jax.Array, fn: Callable[..., Any], args: tuple, otherwise: Any, *, fraction: int, larger: int = 1
) -> Any:
    """`cond` of a batch: `pred` bool [N], and pytrees with that leading axis; `fn`, of one, may close over anything."""
    num = pred.shape[0]
    small = chunk(num, fraction)
    sizes = {small, small * max(1, min(larger, num // small))}
    rows, count = in_need(pred, max(sizes))

    def work(size, carry):
        start, result = carry
        picked = jax.lax.dynamic_slice(rows, (start,), (size,))
        return start + size, _replace(result, picked, fn, *args)

    return _in_chunks(sizes, lambda carry: count - carry[0], work, (jnp.int32(0), otherwise))[1]


def in_need(pred: jax.Array, spare: int) -> tuple[jax.Array, jax.Array]:
    """Rows of `pred` [N] where it holds, int32 [N + spare]: in order, then N, which is none; and their number."""
    fast = spatial.in_one_go(functools.partial(rows_one_by_one, spare=spare))
    default = functools.partial(rows_at_once, spare=spare)
    return batched(lambda preds: jax.lax.platform_dependent(preds, cpu=fast, default=default))(pred.astype(jnp.int32))


def rows_at_once(preds: jax.Array, spare: int) -> tuple[jax.Array, jax.Array]:
    """`in_need` of batches, int32 [batches, N]."""
    num = preds.shape[1]
    place = jnp.cumsum(preds, axis=1)
    at = jnp.where(preds == 1, place - 1, num + spare)
    rows = jnp.full((len(preds), num + spare), num, jnp.int32)
    here = jnp.arange(num, dtype=jnp.int32)
    return jax.vmap(lambda rows, at: rows.at[at].set(here, mode="drop"))(rows, at), place[:, -1]


def rows_one_by_one(preds: jax.Array, spare: int) -> tuple[jax.Array, jax.Array]:
    """The same by one store for each row, of what stands there already if it is not in need: on CPUs, in one go, this
    takes a third of the time.
    """
    size, num = preds.shape

    def note_batch(i, carry):
        def note(row, carry):
            rows, count = carry
            holds = jax.lax.dynamic_slice(preds, (i, row), (1, 1))
            rows = jax.lax.dynamic_update_slice(rows, jnp.where(holds == 1, row, num), (i, count))
            return rows, count + holds[0, 0]

        rows, counts = carry
        rows, count = jax.lax.fori_loop(0, num, note, (rows, jnp.int32(0)), unroll=8)
        return rows, jax.lax.dynamic_update_slice(counts, count[None], (i,))

    start = jnp.full((size, num + spare), num, jnp.int32), jnp.zeros(size, jnp.int32)
    return jax.lax.fori_loop(0, size, note_batch, start)


def _in_chunks(sizes: set[int], left: Callable[[Any], jax.Array], work: Callable[[int, Any], Any], carry: Any) -> Any:
    """Rounds of `work` on chunks of the largest size while there is enough left for them, then of the smallest."""
    for size in sorted(sizes, reverse=True):
        least = 1 if size == min(sizes) else int(size * WORTH)
        carry = jax.lax.while_loop(
            lambda carry, least=least: left(carry) >= least, functools.partial(work, size), carry
        )
    return carry


def _replace(result: Any, rows: jax.Array, fn: Callable[..., Any], *args: Any) -> Any:
    """`result` with what `fn` makes of `args` there in some rows; those that are out of range are left out."""
    out = jax.vmap(fn)(*jax.tree.map(lambda x: jnp.take(x, rows, axis=0, mode="clip"), args))
    return jax.tree.map(lambda old, new: old.at[rows].set(new, mode="drop"), result, out)


def chunk(num: int, fraction: int) -> int:
    """Environments at a time: about num / fraction, in whole vectors."""
    return min(num, LANES * -(-num // (LANES * fraction)))
