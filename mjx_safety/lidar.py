"""Safety Gym's pseudo-lidar: what the robot sees of one kind of object, as pure array functions."""

import dataclasses

import jax
import jax.numpy as jnp

from mjx_safety import checks, short, spatial
from mjx_safety.geometry import entries, heading, rotate_back


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
        # Written out by components: XLA's loops over arrays whose last axis is three are not vectorised.
        away = [positions[:, 0] - robot_pos[0], positions[:, 1] - robot_pos[1], -robot_pos[2]]
        ahead, left = spatial.keep(spatial.back(entries(robot_mat), away)[:2])  # [num]
        dist = jnp.sqrt(ahead * ahead + left * left)
        turn = heading(ahead, left) / (2 * jnp.pi)
        sector = jnp.where(turn < 0, turn + 1.0, turn) * self.num_bins  # [num], in [0, num_bins]
        if self.max_dist is None:
            closeness = jnp.exp(-self.exp_gain * dist)
        else:
            closeness = jnp.maximum(0.0, self.max_dist - dist) / self.max_dist
        sector, closeness = spatial.keep((sector, closeness))

        bins = jnp.arange(self.num_bins, dtype=jnp.float32)
        if self.alias:
            apart = jnp.abs(sector[:, None] - (bins + 0.5))  # from the middle of each bin, [num, num_bins]
            # Within a bin all of it; half-way into it, half of it in either neighbour.
            apart = short.lesser(apart, self.num_bins - apart)
            share = short.lesser(1.5 - apart, 1.0)  # none of it beyond, where this is less than 0
        else:
            share = jnp.where(bins == jnp.minimum(jnp.floor(sector), self.num_bins - 1)[:, None], 1.0, 0.0)
        return short.greater(short.max(closeness[:, None] * share, 0), 0.0)


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
