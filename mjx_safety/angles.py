"""Angles by the polynomials of Cephes (Moshier 1989): XLA's own functions take CPUs several times as long.

XLA takes polynomials for cheap, and works them out anew in everything that uses them: see `spatial.keep`.
"""

import jax
import jax.numpy as jnp
import numpy as np

# pi / 2 in three parts; the first two have so few digits that small multiples of them are exact.
_QUARTER = np.float32(1.5703125), np.float32(4.837512969970703e-4), np.float32(7.549789948768648e-8)


def heading(x: jax.Array, y: jax.Array) -> jax.Array:
    """`arctan2(y, x)` to 3e-7, radians [...] in [-pi, pi].

    The polynomial is that of `atanf`, for tangents up to tan(pi / 8).
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


def cos_sin(angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of radians [...], each to 1e-7 up to 10,000; beyond 1e8 they are not even bounded.

    The polynomials are those of `cosf` and `sinf`, for angles up to pi / 4 from a multiple of pi / 2.
    """
    quarters = jnp.round(angle * np.float32(2 / np.pi))
    rest = angle
    for part in _QUARTER:
        rest = rest - quarters * part
    square = rest * rest
    sin = ((-1.9515295891e-4 * square + 8.3321608736e-3) * square - 1.6666654611e-1) * square * rest + rest
    cos = (2.443315711809948e-5 * square - 1.388731625493765e-3) * square + 4.166664568298827e-2
    cos = cos * square * square - 0.5 * square + 1
    quarters = quarters.astype(jnp.int32)
    odd = quarters & 1 == 1
    cos, sin = jnp.where(odd, sin, cos), jnp.where(odd, cos, sin)
    return jnp.where((quarters + 1) & 2 == 2, -cos, cos), jnp.where(quarters & 2 == 2, -sin, sin)


def turned(heading: tuple[jax.Array, jax.Array], angle: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of what has turned further, by radians [...] up to 0.5: to 1e-7; up to 1: to 3e-6.

    By their Taylor series, which take about half the operations of `cos_sin`.
    """
    cos, sin = heading
    square = angle * angle
    less = (((square / 40320 - 1 / 720) * square + 1 / 24) * square - 0.5) * square
    more = ((square / -5040 + 1 / 120) * square - 1 / 6) * square * angle + angle
    return cos + (cos * less - sin * more), sin + (sin * less + cos * more)
