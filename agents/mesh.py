"""The loop on several devices, which share agents, and groups of an agent's environments.

A mesh has the axes "agent" and "data". Agents never talk to each other; the devices along "data" hold the same agent,
each with some of its groups of environments, and average what they find (`agents.reduce`). One device is a mesh of
1 x 1. The global arrays have the same shapes on every mesh, so a state saved on one continues on another.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from agents import hosts, reduce
from agents.config import Config
from agents.loop import Hyper, Trainer, TrainState, make_fleet

AGENT: Any = PartitionSpec("agent")
AGENT_GROUP: Any = PartitionSpec("agent", reduce.AXIS)
STATE = TrainState(
    params=AGENT,
    opt_state=AGENT,
    normalizer=AGENT,
    multiplier=AGENT,
    env=AGENT_GROUP,
    cost_rate=AGENT,
    num_updates=AGENT,
    key=AGENT,
)
"""How a fleet's state is split: leaves [agents, ...], those of `env` [agents, groups, ...]."""


class Program(NamedTuple):
    """A trainer's compiled functions; see `Trainer.init` and `Trainer.chunk`.

    Attributes:
        init: (keys [agents], hypers [agents]) -> states [agents, ...].
        chunk: (states, hypers, num_updates) -> (states, metrics [updates_per_chunk, agents]); donates `states`.
    """

    init: Callable
    chunk: Callable


def make_mesh(num_agents: int, num_groups: int, devices: Sequence[Any] | None = None) -> Mesh:
    """As many devices as agents and the groups of each can share evenly.

    Args:
        num_agents: agents of the fleet.
        num_groups: groups of environments of each; `Config.num_groups`.
        devices: those to choose from, in this order; all by default.
    """
    devices = jax.devices() if devices is None else devices
    agents, groups = spread(num_agents, num_groups, len(devices))
    return Mesh(np.array(devices[: agents * groups]).reshape(agents, groups), ("agent", reduce.AXIS))


def spread(num_agents: int, num_groups: int, num_devices: int) -> tuple[int, int]:
    """Devices over which agents are spread, and over which the groups of each: of equal splits, over most agents."""

    def divisors(number: int, most: int) -> list[int]:
        return [divisor for divisor in range(1, most + 1) if number % divisor == 0]

    shares = [(count, max(divisors(num_groups, num_devices // count))) for count in divisors(num_agents, num_devices)]
    return max(shares, key=lambda share: (share[0] * share[1], share[0]))


def compile_on(mesh: Mesh, trainer: Trainer) -> Program:
    """`trainer` with its agents and environments spread over `mesh`."""

    def shard(function: Callable, in_specs: tuple, out_specs: object) -> Callable:
        return jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)

    metrics = PartitionSpec(None, "agent")
    return Program(
        init=jax.jit(shard(jax.vmap(trainer.init), (AGENT, AGENT), STATE)),
        chunk=jax.jit(shard(trainer.chunk, (STATE, AGENT, PartitionSpec()), (STATE, metrics)), donate_argnums=0),
    )


def place_fleet(mesh: Mesh, config: Config) -> tuple[jax.Array, Hyper]:
    """Keys and settings of the fleet's agents, split over `mesh`; see `loop.make_fleet`."""
    fleet = make_fleet(config)
    return place(mesh, (AGENT, AGENT), hosts.to_host(fleet), fleet)


def place(mesh: Mesh, specs: Any, arrays: Any, template: Any) -> Any:
    """Global arrays on `mesh` from host arrays that every process holds.

    Args:
        mesh: as from `make_mesh`.
        specs: how the arrays are split; a prefix of their tree, such as STATE.
        arrays: numpy, keys as their data; see `hosts.to_host`.
        template: arrays or shapes that say which of them are keys.
    """

    def leaf(spec: PartitionSpec, x: np.ndarray, like: Any) -> jax.Array:
        array = jax.make_array_from_callback(x.shape, NamedSharding(mesh, spec), lambda index: x[index])
        return jax.random.wrap_key_data(array) if hosts.is_key(like) else array

    def part(spec: PartitionSpec, arrays: Any, template: Any) -> Any:
        return jax.tree.map(lambda x, like: leaf(spec, x, like), arrays, template)

    return jax.tree.map(part, specs, arrays, template, is_leaf=lambda x: isinstance(x, PartitionSpec))
