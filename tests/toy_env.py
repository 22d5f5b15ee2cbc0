"""A tiny environment with the interface of `mjx_safety.Env`, so that trainer tests compile in seconds.

A point on a plane is paid for coming closer to a goal and charged inside a disc that lies on the straight way there.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

import agents
import mjx_safety
from agents.loop import Hyper
from agents.mesh import make_mesh

DISC_RADIUS, GOAL_RADIUS, SPEED = 0.5, 0.3, 0.1


@dataclasses.dataclass(frozen=True)
class ToyTask:
    num_steps: int = 50
    terminate_at_goal: bool = False

    @property
    def continue_goal(self) -> bool:
        return not self.terminate_at_goal


@dataclasses.dataclass(frozen=True)
class ToyEnv:
    task: ToyTask = ToyTask()
    observation_size: int = 4
    action_size: int = 2

    def reset(self, key: jax.Array) -> mjx_safety.State:
        key, start_key, goal_key = jax.random.split(key, 3)
        position, goal = _ring(start_key), _ring(goal_key)
        zero, false = jnp.float32(0.0), jnp.array(False)
        return mjx_safety.State(
            obs=jnp.concatenate([position, goal]),
            reward=zero,
            cost=zero,
            costs={"cost_disc": zero},
            terminated=false,
            truncated=false,
            goal_met=false,
            steps=jnp.int32(0),
            ctrl=jnp.zeros(2),
            physics=position,
            places=goal,
            target=jnp.int32(0),
            timer=jnp.int32(0),
            measured=jnp.linalg.norm(goal - position),
            key=key,
        )

    def step(self, state: mjx_safety.State, action: jax.Array) -> mjx_safety.State:
        key, goal_key = jax.random.split(state.key)
        ctrl = jnp.clip(action, -1.0, 1.0)
        position = jnp.clip(state.physics + SPEED * ctrl, -1.5, 1.5)
        distance = jnp.linalg.norm(state.places - position)
        goal_met = distance < GOAL_RADIUS
        goal = jnp.where(goal_met, _ring(goal_key), state.places)
        cost = jnp.where(jnp.linalg.norm(position) < DISC_RADIUS, 1.0, 0.0).astype(jnp.float32)
        steps = state.steps + 1
        return state.replace(
            obs=jnp.concatenate([position, goal]),
            reward=state.measured - distance + jnp.where(goal_met, 1.0, 0.0),
            cost=cost,
            costs={"cost_disc": cost},
            terminated=goal_met & self.task.terminate_at_goal,
            truncated=steps >= self.task.num_steps,
            goal_met=goal_met,
            steps=steps,
            ctrl=ctrl,
            physics=position,
            places=goal,
            measured=jnp.linalg.norm(goal - position),
            key=key,
        )


def _ring(key: jax.Array) -> jax.Array:
    """A point on the unit circle."""
    angle = jax.random.uniform(key, (), jnp.float32, 0.0, 2.0 * jnp.pi)
    return jnp.stack([jnp.cos(angle), jnp.sin(angle)])


def on_one_device(function: Callable) -> Callable:
    """What the trainer maps over a mesh, compiled for a mesh of one device."""
    everywhere = PartitionSpec()
    mapped = jax.shard_map(function, mesh=make_mesh(1, 1), in_specs=everywhere, out_specs=everywhere, check_vma=False)
    return jax.jit(mapped)


def hyper(**settings) -> Hyper:
    """A single agent's settings."""
    return Hyper.from_config(agents.Config(**settings), {"cost_limit": 25.0})
