"""Running mean and variance of observations, merged batch by batch (Chan, Golub and LeVeque 1979)."""

import jax
import jax.numpy as jnp
from flax import struct

# Sensors that never move (a flat robot's vertical speed) must not turn their noise into a signal.
STD_FLOOR = 1e-2
CLIP = 10.0


@struct.dataclass
class Normalizer:
    """Statistics of every observation seen so far.

    Attributes:
        count: float32 []; observations merged.
        mean: float32 [obs].
        var: float32 [obs]; biased (divided by count).
    """

    count: jax.Array
    mean: jax.Array
    var: jax.Array

    @property
    def std(self) -> jax.Array:
        """float32 [obs]; at least STD_FLOOR."""
        return jnp.maximum(jnp.sqrt(self.var), STD_FLOOR)


def init(observation_size: int) -> Normalizer:
    """The identity: mean 0, variance 1, nothing counted."""
    zeros = jnp.zeros(observation_size, jnp.float32)
    return Normalizer(count=jnp.float32(0.0), mean=zeros, var=jnp.ones_like(zeros))


def merge(normalizer: Normalizer, count: jax.Array, mean: jax.Array, var: jax.Array) -> Normalizer:
    """Statistics that include another batch: its `count` [] of observations, their mean and biased variance [obs]."""
    together = normalizer.count + count
    weight = count / together
    shift = mean - normalizer.mean
    return Normalizer(
        count=together,
        mean=normalizer.mean + weight * shift,
        var=(1.0 - weight) * normalizer.var + weight * var + weight * (1.0 - weight) * jnp.square(shift),
    )


def normalize(obs, mean, std):
    """Centred and scaled observations, clipped to [-CLIP, CLIP]; numpy or JAX arrays, [..., obs]."""
    return obs.__array_namespace__().clip((obs - mean) / std, -CLIP, CLIP)
