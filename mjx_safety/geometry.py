"""Small rotations, written out so that no accelerator rounds them to TF32 and XLA can fuse them."""

import jax
import jax.numpy as jnp

from mjx_safety import spatial
from mjx_safety.angles import cos_sin


def rotate(mat: jax.Array, vec: jax.Array) -> jax.Array:
    """`mat @ vec` for float32 [3, 3] and [..., 3]."""
    return jnp.stack(spatial.rotate(entries(mat), [vec[..., i] for i in range(3)]), -1)


def rotate_back(mat: jax.Array, vec: jax.Array) -> jax.Array:
    """`mat.T @ vec` for float32 [3, 3] and [..., 3]."""
    return jnp.stack(spatial.back(entries(mat), [vec[..., i] for i in range(3)]), -1)


def entries(mat: jax.Array) -> spatial.Mat:
    """A matrix [3, 3] as rows of numbers."""
    return [[mat[i, j] for j in range(3)] for i in range(3)]


def at_height(on_floor: jax.Array, height: float) -> jax.Array:
    """Points on the floor [num, 2] at a height, float32 [num, 3]."""
    return jnp.concatenate([on_floor, jnp.full((len(on_floor), 1), height)], axis=1)


def yaw_to_quat(yaw: jax.Array) -> jax.Array:
    """Quaternion (w first) [..., 4] of a turn about the vertical, radians [...]."""
    (cos, sin), zero = cos_sin(yaw / 2), jnp.zeros_like(yaw)
    return jnp.stack([cos, zero, zero, sin], axis=-1)


def yaw_to_mat(yaw: jax.Array) -> jax.Array:
    """Rotation matrix [3, 3] of a turn about the vertical, radians []."""
    cos, sin = spatial.keep(cos_sin(yaw))
    zero = jnp.zeros(())
    return jnp.stack([jnp.stack(row) for row in ([cos, -sin, zero], [sin, cos, zero], [zero, zero, zero + 1])])


def quat_to_yaw(quat: jax.Array) -> jax.Array:
    """Heading of a body's x axis, radians [...] in (-pi, pi], from quaternions (w first) [..., 4]."""
    w, x, y, z = (quat[..., i] for i in range(4))
    return jnp.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def quat_to_mat(quat: jax.Array) -> jax.Array:
    """Rotation matrix [3, 3] of a unit quaternion (w first) [4]."""
    w, x, y, z = quat
    return jnp.stack([
        jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
        jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
        jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
    ])  # fmt: skip
