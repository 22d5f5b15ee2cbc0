"""Safety Gym's pseudo-lidar: what the robot sees of one kind of object, as pure array functions."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from mjx_safety import checks, short, spatial
from mjx_safety.angles import heading
from mjx_safety.batching import batched
from mjx_safety.geometry import entries, rotate_back


@dataclasses.dataclass(frozen=True)
class Lidar:
    """How objects are seen (Safety Gym engine options `lidar_*`).

    Attributes:
      num_bins: sectors round the robot; bin 0 starts at its +x axis, counter-clockwise.
      max_dist: metres at which closeness falls to 0, or None for exponential closeness.
      exp_gain: gain of the exponential, 1/m; used when `max_dist` is None.
      alias: spread a reading over the two neighbouring bins, in proportion to the place within the bin.
    """

    num_bins: int = 16
    max_dist: float | None = 3.0
    exp_gain: float = 1.0
    alias: bool = True

    def __post_init__(self):
        checks.whole("Lidar.num_bins", self.num_bins, least=1)
        if self.max_dist is not None:
            checks.number("Lidar.max_dist (None for exponential lidar)", self.max_dist, above=0)
        checks.number("Lidar.exp_gain", self.exp_gain, above=0)
        checks.kind("Lidar.alias", self.alias, bool)

    def read(self, robot_pos: jax.Array, robot_mat: jax.Array, positions: jax.Array) -> jax.Array:
        """Readings of objects at `positions`.

        The object's height is replaced by 0 before it is rotated into the robot's frame, as in the original, so a
        tilted robot sees slightly different distances.

        Args:
          robot_pos: float32 [3], metres, world frame.
          robot_mat: float32 [3, 3], rotation from robot to world.
          positions: float32 [num, 3], metres, world frame.

        Returns:
          float32 [num_bins] in [0, 1], 0 where nothing is seen.
        """
        if not len(positions):
            return jnp.zeros(self.num_bins)
        return batched(self._read)(robot_pos, robot_mat, positions)

    def _read(self, robot_pos: jax.Array, robot_mat: jax.Array, positions: jax.Array) -> jax.Array:
        """`read` of a batch, [num_envs, num_bins]."""
        ahead, left = jax.vmap(_seen_from)(robot_pos, robot_mat, positions)
        # All things of all environments on one axis: XLA's loops over a few are not vectorised.
        ahead, left = spatial.keep((ahead.ravel(), left.ravel()))
        dist = jnp.sqrt(ahead * ahead + left * left)
        turn = heading(ahead, left) / (2 * jnp.pi)
        sector = jnp.where(turn < 0, turn + 1.0, turn) * self.num_bins  # in [0, num_bins]
        if self.max_dist is None:
            closeness = jnp.exp(-self.exp_gain * dist)
        else:
            closeness = jnp.maximum(0.0, self.max_dist - dist) / self.max_dist
        sector, closeness = (x.reshape((*positions.shape[:2], 1)) for x in spatial.keep((sector, closeness)))
        seen = (closeness[:, i] * self._share(sector[:, i]) for i in range(positions.shape[1]))
        return short.greater(functools.reduce(short.greater, seen), 0.0)

    def _share(self, sector: jax.Array) -> jax.Array:
        """How much of a thing each bin shows, float32 [..., num_bins]; less than 0 is none of it."""
        bins = jnp.arange(self.num_bins, dtype=jnp.float32)
        if not self.alias:
            return jnp.where(bins == jnp.minimum(jnp.floor(sector), self.num_bins - 1), 1.0, 0.0)
        apart = jnp.abs(sector - (bins + 0.5))  # from the middle of each bin
        # Within a bin all of it; half-way into it, half of it in either neighbour.
        apart = short.lesser(apart, self.num_bins - apart)
        return short.lesser(1.5 - apart, 1.0)


def _seen_from(robot_pos: jax.Array, robot_mat: jax.Array, positions: jax.Array) -> list[jax.Array]:
    """Metres ahead and to the left of the robot, [num] each, of positions on the floor [num, 3]."""
    away = [positions[:, 0] - robot_pos[0], positions[:, 1] - robot_pos[1], -robot_pos[2]]
    return spatial.back(entries(robot_mat), away)[:2]


def compass(robot_pos: jax.Array, robot_mat: jax.Array, position: jax.Array, size: int) -> jax.Array:
    """Direction to one thing in the robot's frame (Safety Gym's engine, `obs_compass`): e / (|e| + 0.001).

    Args:
      robot_pos: float32 [3], metres, world frame.
      robot_mat: float32 [3, 3], rotation from robot to world.
      position: float32 [3], metres, world frame.
      size: entries of e that count, 2 (seen from above) or 3.

    Returns:
      float32 [size], almost a unit vector.
    """
    ego = rotate_back(robot_mat, position - robot_pos)[:size]
    return ego / (short.norm(ego, 0) + 0.001)
