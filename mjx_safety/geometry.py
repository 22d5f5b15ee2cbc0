"""Small rotations, written out so that no accelerator rounds them to TF32 and XLA can fuse them."""

import jax
import jax.numpy as jnp


def rotate(mat: jax.Array, vec: jax.Array) -> jax.Array:
    """`mat @ vec` for float32 [3, 3] and [..., 3]."""
    return jnp.sum(mat * vec[..., None, :], axis=-1)


def rotate_back(mat: jax.Array, vec: jax.Array) -> jax.Array:
    """`mat.T @ vec` for float32 [3, 3] and [..., 3]."""
    return jnp.sum(mat * vec[..., :, None], axis=-2)


def yaw_to_quat(yaw: jax.Array) -> jax.Array:
    """Quaternion (w first) [..., 4] of a turn about the vertical, radians [...]."""
    zero = jnp.zeros_like(yaw)
    return jnp.stack([jnp.cos(yaw / 2), zero, zero, jnp.sin(yaw / 2)], axis=-1)


def quat_to_yaw(quat: jax.Array) -> jax.Array:
    """Heading of a body's x axis, radians [...] in (-pi, pi], from quaternions (w first) [..., 4]."""
    w, x, y, z = (quat[..., i] for i in range(4))
    return jnp.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))


def twist(quat: jax.Array) -> jax.Array:
    """The turn about the vertical that a tilt about some level axis was added to, radians [...], of [..., 4]."""
    return 2 * jnp.arctan2(quat[..., 3], quat[..., 0])


def quat_to_mat(quat: jax.Array) -> jax.Array:
    """Rotation matrix [3, 3] of a unit quaternion (w first) [4]."""
    w, x, y, z = quat
    return jnp.stack([
        jnp.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)]),
        jnp.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)]),
        jnp.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)]),
    ])  # fmt: skip
