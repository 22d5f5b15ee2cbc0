"""Tanh multilayer perceptrons and a diagonal Gaussian policy, as plain functions on pytrees."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

Layers = tuple[tuple[Any, Any], ...]  # ((weight [in, out], bias [out]), ...)

LOG_STD_INIT = -0.5  # std 0.61: safety-starter-agents
LOG_2PI = 1.8378770664093453


def orthogonal(key: jax.Array, rows: int, cols: int) -> jax.Array:
    """A uniformly random matrix [rows, cols] with orthonormal rows or columns, whichever are fewer.

    It is the polar factor of a Gaussian matrix, by Newton and Schulz's iteration: products only, because JAX's
    batched QR decomposition can deadlock on CPUs with few cores.
    """
    x = jax.random.normal(key, (max(rows, cols), min(rows, cols)), jnp.float32)
    x = x / jnp.linalg.norm(x)  # singular values now lie below 1, and all of them converge to 1

    def polish(_: int, x: jax.Array) -> jax.Array:
        gram = jnp.matmul(x.T, x, precision="highest")
        return 1.5 * x - 0.5 * jnp.matmul(x, gram, precision="highest")

    x = jax.lax.fori_loop(0, 50, polish, x)
    return x if rows >= cols else x.T


def init_mlp(key: jax.Array, sizes: Sequence[int], head_scale: float) -> Layers:
    """Layers of widths `sizes`: orthogonal weights of gain sqrt 2 (the last one `head_scale`), zero biases."""
    scales = [2.0**0.5] * (len(sizes) - 2) + [head_scale]
    keys = jax.random.split(key, len(scales))
    return tuple(
        (scale * orthogonal(k, fan_in, fan_out), jnp.zeros(fan_out, jnp.float32))
        for k, scale, fan_in, fan_out in zip(keys, scales, sizes[:-1], sizes[1:], strict=True)
    )


def mlp(layers: Layers, x):
    """Forward pass, [..., in] -> [..., out]; numpy in, numpy out, JAX in, JAX out."""
    tanh = x.__array_namespace__().tanh
    for weight, bias in layers[:-1]:
        x = tanh(x @ weight + bias)
    weight, bias = layers[-1]
    return x @ weight + bias


def init_params(key: jax.Array, observation_size: int, action_size: int, hidden_sizes: Sequence[int]) -> dict:
    """Three separate networks: the policy's mean with a free log_std, the value and the cost value.

    The policy's head starts at gain 0.01, so that the first actions are noise around zero (Andrychowicz et al. 2021).
    """
    policy_key, value_key, cost_key = jax.random.split(key, 3)
    body = (observation_size, *hidden_sizes)
    return {
        "policy": {
            "mean": init_mlp(policy_key, (*body, action_size), head_scale=0.01),
            "log_std": jnp.full(action_size, LOG_STD_INIT, jnp.float32),
        },
        "value": init_mlp(value_key, (*body, 1), head_scale=1.0),
        "cost_value": init_mlp(cost_key, (*body, 1), head_scale=1.0),
    }


def log_prob(mean: jax.Array, log_std: jax.Array, action: jax.Array) -> jax.Array:
    """Log-density of `action` [..., act] under N(mean, exp(log_std)^2), summed over the last axis."""
    deviation = (action - mean) * jnp.exp(-log_std)
    return -jnp.sum(0.5 * jnp.square(deviation) + log_std + 0.5 * LOG_2PI, -1)


def kl_divergence(mean: jax.Array, log_std: jax.Array, old_mean: jax.Array, old_log_std: jax.Array) -> jax.Array:
    """Exact KL(new || old) of two diagonal Gaussians, summed over the last axis."""
    variance, old_variance = jnp.exp(2.0 * log_std), jnp.exp(2.0 * old_log_std)
    scaled = (variance + jnp.square(mean - old_mean)) / old_variance
    return jnp.sum(old_log_std - log_std + 0.5 * scaled - 0.5, -1)


def entropy(log_std: jax.Array) -> jax.Array:
    """Differential entropy of a diagonal Gaussian, float32 []."""
    return jnp.sum(log_std + 0.5 * (LOG_2PI + 1.0))
