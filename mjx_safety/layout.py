"""Layouts drawn on the device: Safety Gym's rejection sampling, same distribution, no Python loop.

The original places things one after the other; each has 100 tries to keep its distance from those already placed,
and if all fail, the whole layout starts again (engine's `sample_layout`). Here some tries of a thing are drawn at once,
round after round, and the first valid one is taken, which is the same distribution. In a batch every layout is at a
thing of its own, so that those that need more tries, or start again, do not hold up the others.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import short, sparse
from mjx_safety.objects.base import Placement, Rectangle

TRIES = 100  # of one thing, before the layout starts again
ATTEMPTS = 10_000  # at a whole layout
REDRAWS = 10_000  # of one thing that is placed anew among the others
AT_ONCE = 20  # tries a round, of which one is mostly valid; divides TRIES and REDRAWS
DENSEST = math.pi / math.sqrt(12)  # share of the plane that the densest packing of equal discs covers
_FAR = 1e6  # where things wait that have not been placed yet, out of everybody's way


class _Layout(NamedTuple):
    """A layout while it is drawn.

    Attributes:
      key: for the tries to come.
      positions: float32 [num, 2]; things that have no place yet are out of everybody's way.
      index: int32 [], the thing whose turn it is.
      rounds: int32 [], rounds of tries that it has had.
      failures: int32 [], attempts at the layout that have failed.
    """

    key: jax.Array
    positions: jax.Array
    index: jax.Array
    rounds: jax.Array
    failures: jax.Array


class Layout:
    """The sampler of one task.

    Args:
      spots: the things in the order in which they are placed, a placement with at most one location each.
      extents: where things without rectangles of their own lie, metres.
      margin: metres added to the least distance of any two things.

    Raises:
      ValueError: a thing has no rectangle large enough for its keepout, all of them together cannot find room, or two
        locations are too near to each other.
    """

    def __init__(self, spots: Sequence[Placement], extents: Rectangle, margin: float):
        self.num = len(spots)
        rectangles = [_shrunk(spot, extents) for spot in spots]
        _check_room(spots, extents, margin)
        _check_fixed(spots, margin)
        most = max(map(len, rectangles))
        bounds = np.zeros((self.num, most, 4), np.float32)
        upto = np.ones((self.num, most), np.float32)  # share of the area in the rectangles up to and with each
        for i, boxes in enumerate(rectangles):
            bounds[i, : len(boxes)] = boxes
            area = np.array([(x_max - x_min) * (y_max - y_min) for x_min, y_min, x_max, y_max in boxes])
            upto[i, : len(boxes)] = np.cumsum(area / area.sum())
        keepout = np.array([spot.keepout for spot in spots], np.float32)
        apart = keepout[:, None] + keepout[None, :] + np.float32(margin)  # [num, num], least distances
        self._constraints = bounds, upto[:, :-1], apart

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A whole layout.

        Returns:
          float32 [num, 2] positions in metres, and whether they are valid, bool []: False only after 10,000 attempts.
        """

        def pending(layout: _Layout) -> jax.Array:
            return layout.index < self.num

        def place(layout: _Layout) -> _Layout:
            """One round of tries for the thing whose turn it is."""
            index = layout.index
            key, draw = jax.random.split(layout.key)
            position, valid = _draw(draw, layout.positions, *(jnp.asarray(x)[index] for x in self._constraints))
            spent = ~valid & (layout.rounds == TRIES // AT_ONCE - 1)
            failures = layout.failures + spent.astype(jnp.int32)
            again = spent & (failures < ATTEMPTS)  # the last layout is kept, whatever it is
            placed = valid | (spent & ~again)
            here = placed & (jnp.arange(self.num) == index)
            positions = jnp.where(here[:, None], position, layout.positions)
            return _Layout(
                key=key,
                positions=jnp.where(again, _FAR, positions),
                index=jnp.where(again, 0, index + placed.astype(jnp.int32)),
                rounds=jnp.where(valid | spent, 0, layout.rounds + 1),
                failures=failures,
            )

        zero = jnp.int32(0)
        start = _Layout(key, jnp.full((self.num, 2), _FAR, jnp.float32), zero, zero, zero)
        layout = sparse.loop(pending, place, start, fraction=8)
        return layout.positions, layout.failures < ATTEMPTS

    def resample(self, key: jax.Array, index: int, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A new place for one thing among the others, where these are now.

        Args:
          key: random key.
          index: which thing moves.
          positions: float32 [num, 2] of all things; the thing's own place does not matter.

        Returns:
          float32 [2], and whether it is valid, bool []: False after 10,000 draws without success.
        """

        def pending(carry: tuple) -> jax.Array:
            _, _, valid, rounds = carry
            return ~valid & (rounds < REDRAWS // AT_ONCE)

        def place(carry: tuple, others: jax.Array) -> tuple:
            key, _, _, rounds = carry
            key, draw = jax.random.split(key)
            constraints = (jnp.asarray(x[index]) for x in self._constraints)
            return key, *_draw(draw, others, *constraints), rounds + 1

        start = key, positions[index], jnp.array(False), jnp.int32(0)
        return sparse.loop(pending, place, start, positions.at[index].set(_FAR), fraction=1)[1:3]


def _shrunk(spot: Placement, extents: Rectangle) -> list[Rectangle]:
    """Where the centre of a thing may lie: its rectangles less its keepout on every side."""
    if spot.locations:
        ((x, y),) = spot.locations
        return [(x - 1e-9, y - 1e-9, x + 1e-9, y + 1e-9)]
    keepout = spot.keepout
    boxes = spot.rectangles or (extents,)
    shrunk = [
        (x_min + keepout, y_min + keepout, x_max - keepout, y_max - keepout) for x_min, y_min, x_max, y_max in boxes
    ]
    shrunk = [box for box in shrunk if box[0] <= box[2] and box[1] <= box[3]]
    if not shrunk:
        raise ValueError(
            f"{boxes[0]} leaves no place for a keepout of {keepout} m; "
            "widen it (or Task.extents), or lower the keepout."
        )
    return shrunk


def _check_room(spots: Sequence[Placement], extents: Rectangle, margin: float) -> None:
    """Refuses keepouts that no arrangement fits into the extents."""
    if any(spot.rectangles or spot.locations for spot in spots):
        return
    x_min, y_min, x_max, y_max = extents
    share = sum(math.pi * (spot.keepout + margin / 2) ** 2 for spot in spots) / ((x_max - x_min) * (y_max - y_min))
    if share > DENSEST:
        raise ValueError(
            f"The keepouts of {len(spots)} things cover {share:.0%} of the extents {extents}; {DENSEST:.0%} at most "
            "can be covered. Place fewer things, lower keepouts or widen Task.extents."
        )


def _check_fixed(spots: Sequence[Placement], margin: float) -> None:
    """Refuses locations at which two things would always be in each other's keepout."""
    fixed = [(*spot.locations, spot.keepout) for spot in spots if spot.locations]
    for (first, keepout), (second, other) in itertools.combinations(fixed, 2):
        least, distance = keepout + other + margin, math.dist(first, second)
        if distance < least - 1e-6:
            raise ValueError(
                f"The locations {first} and {second} are {distance:.3g} m apart, but keepouts of {keepout} m and "
                f"{other} m and a margin of {margin} m need {least:.3g} m. Move one, or lower a keepout or Task.margin."
            )


def _draw(
    key: jax.Array, placed: jax.Array, bounds: jax.Array, upto: jax.Array, apart: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The first valid one of AT_ONCE uniform draws, float32 [2], and whether there is one, bool [].

    They are drawn from the rectangles `bounds` [most, 4], by their areas: `upto` [most - 1] is the share of those up to
    and with each but the last. Valid is what lies `apart` [num] from all that is placed [num, 2].
    """
    several = len(bounds) > 1
    drawn = jax.random.uniform(key, (3 if several else 2, AT_ONCE), jnp.float32)
    box = bounds[short.sum((drawn[2][:, None] >= upto).astype(jnp.int32), 1)] if several else bounds[0]
    x = box[..., 0] + drawn[0] * (box[..., 2] - box[..., 0])
    y = box[..., 1] + drawn[1] * (box[..., 3] - box[..., 1])
    dx, dy = x[:, None] - placed[:, 0], y[:, None] - placed[:, 1]
    valid = short.all(dx * dx + dy * dy >= apart * apart, 1)
    first = jnp.argmax(valid)
    return jnp.stack([x[first], y[first]]), valid.any()
