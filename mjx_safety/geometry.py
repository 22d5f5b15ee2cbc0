"""Small rotations, written out so that no accelerator rounds them to TF32 and XLA can fuse them."""

import jax
import jax.numpy as jnp

from mjx_safety import spatial


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


def heading(x: jax.Array, y: jax.Array) -> jax.Array:
    """`arctan2(y, x)` to 3e-7, radians [...] in [-pi, pi]: XLA's own is a call for every number on CPUs.

    The polynomial is that of Cephes (Moshier 1989), `atanf`, for tangents up to tan(pi / 8).
    """
    near, far = jnp.minimum(jnp.abs(x), jnp.abs(y)), jnp.maximum(jnp.abs(x), jnp.abs(y))
    steep = near > 0.41421356 * far  # beyond pi / 8: the angle from the diagonal instead
    tan = jnp.where(steep, near - far, near) / jnp.maximum(jnp.where(steep, near + far, far), 1e-30)
    square = tan * tan
    series = ((8.05374449538e-2 * square - 1.38776856032e-1) * square + 1.99777106478e-1) * square - 3.33329491539e-1
    angle = series * square * tan + tan + jnp.where(steep, jnp.pi / 4, 0.0)
    angle = jnp.where(jnp.abs(y) > jnp.abs(x), jnp.pi / 2 - angle, angle)
    angle = jnp.where(x < 0, jnp.pi - angle, angle)
    return jnp.where(y < 0, -angle, angle)


def yaw_to_quat(yaw: jax.Array) -> jax.Array:
    """Quaternion (w first) [..., 4] of a turn about the vertical, radians [...]."""
    zero = jnp.zeros_like(yaw)
    return jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)], axis=-1)


def yaw_to_mat(yaw: jax.Array) -> jax.Array:
    """Rotation matrix [3, 3] of a turn about the vertical, radians []."""
    cos, sin = spatial.keep((jnp.cos(yaw), jnp.sin(yaw)))
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
