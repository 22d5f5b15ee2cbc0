"""A batch of environments as Gymnasium has it, for learners that are not written in JAX."""

from typing import Any

import jax
import numpy as np

from mjx_safety.autoreset import AutoReset, VecState
from mjx_safety.env import Env

try:
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode
    from gymnasium.vector import VectorEnv as GymnasiumVectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise ImportError(f'mjx_safety.adapters.gymnasium needs Gymnasium ({error}): pip install -e ".[gym]".') from error


class VectorEnv(GymnasiumVectorEnv):
    """`AutoReset` as a `gymnasium.vector.VectorEnv`: numpy in and out, one compiled program inside.

    Where an episode ends, the next one begins in the same step (Gymnasium's `AutoresetMode.SAME_STEP`): the observation
    is already its first. `info["final_obs"]` is what the step led to, in every environment, and `info["_final_obs"]`
    tells where an episode ended; there is no "final_info", for all of `info` is of the step. It has, by Safety Gym's
    names, the step's "cost", costs by kind such as "cost_hazards", and "goal_met". Gymnasium's own wrappers of vector
    observations refuse this mode: normalise in the learner.

    Arguments, and what is refused, are those of `AutoReset`.
    """

    def __init__(self, env: Env, num_envs: int):
        self._batch = AutoReset(env, num_envs)
        self._reset, self._step = jax.jit(self._batch.reset), jax.jit(self._batch.step)
        self._states: VecState | None = None
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-np.inf, np.inf, (env.observation_size,), np.float32)
        self.single_action_space = spaces.Box(-1.0, 1.0, (env.action_size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """First observations, float32 [num_envs, observation_size], and an empty `info`.

        Args:
          seed: of all that follows; without one the layouts are others at every call, from what was seeded last.
          options: Gymnasium's; there are none.
        """
        super().reset(seed=seed)
        self._states = states = self._reset(jax.random.key(self.np_random.integers(2**31)))
        return np.array(states.obs), {}

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Observations, rewards, terminations, truncations and `info`.

        Args:
          actions: [num_envs, action_size]; every entry is clipped to [-1, 1].

        Raises:
          ValueError: the actions have the wrong shape.
          RuntimeError: `reset` was not called.
        """
        if self._states is None:
            raise RuntimeError("VectorEnv.step was called before VectorEnv.reset; call reset first.")
        self._states = states = self._step(self._states, np.asarray(actions, np.float32))
        info = {"cost": states.cost, **states.costs, "goal_met": states.goal_met, "final_obs": states.final_obs}
        seen = states.obs, states.reward, states.terminated, states.truncated, info
        # Copies, for JAX's own arrays cannot be written to.
        obs, reward, terminated, truncated, info = jax.tree.map(np.array, seen)
        return obs, reward, terminated, truncated, info | {"_final_obs": terminated | truncated}
