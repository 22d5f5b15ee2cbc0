"""Layouts drawn on the device: Safety Gym's rejection sampling, no Python loop.

One thing is placed after the other; each has 100 tries to keep its distance from those already placed, and if all fail,
the whole layout starts again (engine's `sample_layout`). A round takes as many tries as most layouts of Goal tasks
need. Those of a batch that need more take further rounds by themselves: Button's, which often start again, dozens.
"""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from mjx_safety import short, sparse, spatial
from mjx_safety.objects.base import Placement, Rectangle

TRIES = 100  # of one thing, before the layout starts again
ATTEMPTS = 10_000  # at a whole layout
REDRAWS = 10_000  # of one thing that is placed anew among the others
ROUND = 2  # tries for each thing in a round of all of them
ROUND_OF_ONE = 8  # tries in a round of a thing that is placed anew, of which one is mostly valid
DENSEST = math.pi / math.sqrt(12)  # share of the plane that the densest packing of equal discs covers
_FAR = 1e6  # where things wait that have not been placed yet, out of everybody's way


class _Layout(NamedTuple):
    """A layout while it is drawn.

    Attributes:
      key: for the tries to come.
      positions: float32 [num, 2]; things that have no place yet are out of everybody's way.
      index: int32 [], the thing whose turn it is.
      tries: int32 [], how many it has had.
      failures: int32 [], attempts at the layout that have failed.
    """

    key: jax.Array
    positions: jax.Array
    index: jax.Array
    tries: jax.Array
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
            area = area if area.any() else np.ones(len(boxes))  # points and lines: one as likely as another
            upto[i, : len(boxes)] = np.cumsum(area / area.sum())
        self._bounds, self._upto = bounds, upto[:, :-1]
        self._keepout, self._margin = np.array([spot.keepout for spot in spots], np.float32), np.float32(margin)

    def sample(self, key: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A whole layout.

        Returns:
          float32 [num, 2] positions in metres, and whether they are valid, bool []: False only after 10,000 attempts.
        """
        zero = jnp.int32(0)
        start = _Layout(key, jnp.full((self.num, 2), _FAR, jnp.float32), zero, zero, zero)
        layout = self._search(start, list(range(self.num)), ROUND * self.num, TRIES, ATTEMPTS)
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
        order = [*range(index), *range(index + 1, self.num), index]  # its turn comes when all others have their places
        positions = positions[np.array(order)].at[-1].set(_FAR)
        start = _Layout(key, positions, jnp.int32(self.num - 1), jnp.int32(0), jnp.int32(0))
        layout = self._search(start, order, ROUND_OF_ONE, REDRAWS, most_attempts=1)
        return layout.positions[-1], layout.failures < 1

    def _search(self, start: _Layout, order: list[int], draws: int, most_tries: int, most_attempts: int) -> _Layout:
        """Places things in the order in which `start` has them, in rounds of so many draws.

        The last attempt is kept, whatever it is.
        """
        bounds, upto, keepout = self._bounds[order], self._upto[order], self._keepout[order]
        several = bounds.shape[1] > 1

        def place(drawn: jax.Array, layout: _Layout) -> _Layout:
            """One try, from uniform numbers [2 or 3, envs]; the third chooses the rectangle, if there are several."""
            turn = jnp.minimum(layout.index, self.num - 1)  # a layout that is complete draws on until the round ends
            which = short.sum((drawn[2] >= jnp.asarray(upto)[turn].T).astype(jnp.int32), 0) if several else 0
            x_min, y_min, x_max, y_max = (jnp.asarray(bounds)[turn, which, i] for i in range(4))
            x, y = x_min + drawn[0] * (x_max - x_min), y_min + drawn[1] * (y_max - y_min)
            dx, dy = x - layout.positions[:, 0], y - layout.positions[:, 1]
            apart = jnp.asarray(keepout)[turn] + keepout[:, None] + self._margin
            valid = short.all(dx * dx + dy * dy >= apart * apart, 0)

            pending = layout.index < self.num
            spent = pending & ~valid & (layout.tries == most_tries - 1)
            failures = layout.failures + spent.astype(jnp.int32)
            again = spent & (failures < most_attempts)
            placed = pending & (valid | spent) & ~again
            here = placed & (jnp.arange(self.num)[:, None] == layout.index)
            positions = jnp.where(here[:, None], jnp.stack([x, y]), layout.positions)
            return layout._replace(
                positions=jnp.where(again, _FAR, positions),
                index=jnp.where(again, 0, layout.index + placed.astype(jnp.int32)),
                tries=jnp.where(valid | spent, 0, layout.tries + 1),
                failures=failures,
            )

        def take_round(layout: _Layout) -> _Layout:
            """Environments are the last axis of every array."""
            keys = jax.vmap(jax.random.split)(layout.key)
            shape = draws, 3 if several else 2
            drawn = jax.vmap(lambda key: jax.random.uniform(key, shape, jnp.float32))(keys[:, 1])
            drawn = jnp.moveaxis(drawn, 0, -1)
            layout = jax.lax.fori_loop(0, draws, lambda i, layout: place(drawn[i], layout), layout)
            return layout._replace(key=keys[:, 0])

        if not jnp.issubdtype(start.key.dtype, jax.dtypes.prng_key):  # of `jax.random.PRNGKey`
            start = start._replace(key=jax.random.wrap_key_data(start.key))
        take_round = spatial.lanes(spatial.in_one_go(take_round))
        return sparse.loop(lambda layout: layout.index < self.num, take_round, start, fraction=8)


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
    # Keepouts stay within the extents, but margins may reach beyond them by half.
    area = (x_max - x_min + margin) * (y_max - y_min + margin)
    share = sum(math.pi * (spot.keepout + margin / 2) ** 2 for spot in spots) / area
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
