"""A trained policy as a value: callable on numpy or JAX arrays, stored as one plain .npz file.

The file needs nothing of this package. It holds, in float32, `obs_mean` and `obs_std` [agents, obs], the layers of the
mean network as `weight_0` [agents, in, out], `bias_0` [agents, out], `weight_1` and so on, and `log_std` [agents, act].
The network reads clip((obs - obs_mean) / obs_std, -10, 10) and has a tanh after every layer but the last; the README
runs it in ten lines of numpy.
"""

import os
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import struct

from agents import networks, normalizer
from agents.loop import TrainState

FILE = "policy.npz"


@struct.dataclass(eq=False)  # hashed by identity, so that jax.jit(policy) works
class Policy:
    """Gaussian policy with frozen observation statistics; a pytree, so it can be passed through jit and vmap.

    Attributes:
        layers: weights and biases of the mean network.
        log_std: [act].
        obs_mean, obs_std: [obs].
    """

    layers: networks.Layers
    log_std: Any
    obs_mean: Any
    obs_std: Any

    def __call__(self, obs, key: jax.Array | None = None):
        """The mean action, or with a typed key one sample.

        Args:
            obs: [obs] or [..., obs], numpy or JAX; the action is of the same kind.
            key: jax.random key.

        Raises:
            ValueError: the last axis of `obs` is not the observation size.
        """
        obs = obs if isinstance(obs, jax.Array) else np.asarray(obs, np.float32)
        size = self.obs_mean.shape[-1]
        if obs.ndim == 0 or obs.shape[-1] != size:
            raise ValueError(f"the policy expects observations of shape [..., {size}], got {obs.shape}")
        mean = networks.mlp(self.layers, normalizer.normalize(obs, self.obs_mean, self.obs_std))
        if key is None:
            return mean
        noise = jax.random.normal(key, mean.shape, mean.dtype)
        xp = obs.__array_namespace__()
        return mean + xp.exp(self.log_std) * (noise if isinstance(obs, jax.Array) else np.asarray(noise))


def from_state(state: TrainState) -> Policy:
    """The policy of a training state, with or without a leading agent axis."""
    policy, stats = state.params["policy"], state.normalizer
    return Policy(policy["mean"], policy["log_std"], stats.mean, stats.std)


def save_policy(policies: Policy, path: Path) -> None:
    """Write policies [agents, ...] to an .npz file, atomically."""
    arrays = {"log_std": policies.log_std, "obs_mean": policies.obs_mean, "obs_std": policies.obs_std}
    for i, (weight, bias) in enumerate(policies.layers):
        arrays |= {f"weight_{i}": weight, f"bias_{i}": bias}
    partial = path.with_name("partial-" + path.name)
    stored: dict[str, Any] = {name: np.asarray(array) for name, array in arrays.items()}
    np.savez(partial, **stored)
    os.replace(partial, path)


def load_policies(path: str | Path) -> Policy:
    """The policies [agents, ...] of a run directory or an .npz file, as numpy arrays."""
    path = Path(path)
    file = path if path.suffix == ".npz" else path / FILE
    try:
        with np.load(file) as stored:
            arrays = dict(stored)
    except FileNotFoundError:
        raise FileNotFoundError(f"no trained policy in {path}: {FILE} is written when training ends") from None
    except (zipfile.BadZipFile, ValueError, EOFError) as error:
        raise ValueError(f"{file} is not a readable policy file: {error}") from None
    depth = sum(name.startswith("weight_") for name in arrays)
    layers = tuple((arrays[f"weight_{i}"], arrays[f"bias_{i}"]) for i in range(depth))
    return Policy(layers, arrays["log_std"], arrays["obs_mean"], arrays["obs_std"])


def load_policy(path: str | Path, agent: int = 0) -> Policy:
    """The policy a run ended with: `policy(obs, key=None) -> action`, numpy or JAX arrays, single or batched.

    Args:
        path: run directory, or one of its .npz files, such as best/cost_limit=25.npz.
        agent: which one, where the run trained several, in the order of `Config.agents`.

    Raises:
        FileNotFoundError: the run directory holds no policy.
        ValueError: the file is damaged, or there is no such agent.
    """
    policies = load_policies(path)
    num_agents = len(policies.log_std)
    if not 0 <= agent < num_agents:
        raise ValueError(f"{path} holds {num_agents} agent(s), numbered from 0; there is no agent {agent}")
    return jax.tree.map(lambda x: x[agent], policies)
