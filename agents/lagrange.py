"""Laws that move the Lagrange multiplier from the measured episode cost, once per update.

A law is a pair `init(hyper) -> state` and `update(state, episode_cost, num_steps, hyper) -> state`; every state has a
`multiplier`, float32 []. Updates of different batch sizes are compared by the environment steps they span, so that a
run with large batches integrates a violation as fast as one with small batches.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct

if TYPE_CHECKING:
    from agents.loop import Hyper

COST_SCALE = 10.0  # costs are divided by it before the gains apply: Stooke, Achiam and Abbeel 2020, published code
PID_STEPS = 32_768  # environment steps per update that the PID gains are stated for
MULTIPLIER_MAX = 100.0  # same source
EPOCH_STEPS = 30_000  # environment steps per update in safety-starter-agents


class Law(NamedTuple):
    """One way to move the multiplier; see the module. `settings` are the fields of `Hyper` that it uses."""

    init: Callable
    update: Callable
    settings: tuple[str, ...] = ()


@struct.dataclass
class PlainState:
    """State of a law that remembers the multiplier alone."""

    multiplier: jax.Array


def keep(state: PlainState, episode_cost: jax.Array, num_steps: int, hyper: "Hyper") -> PlainState:
    """Whatever the cost, the same price. Arguments as in `update_pid`."""
    return state


@struct.dataclass
class PIDState:
    """State of the PID law: all float32 []."""

    multiplier: jax.Array
    integral: jax.Array
    error: jax.Array  # exponential moving average of (episode cost - limit) / COST_SCALE


def init_pid(hyper: "Hyper") -> PIDState:
    """The integral starts at `hyper.multiplier_init`, the averaged error at 0."""
    return PIDState(hyper.multiplier_init, integral=hyper.multiplier_init, error=jnp.float32(0.0))


def update_pid(state: PIDState, episode_cost: jax.Array, num_steps: int, hyper: "Hyper") -> PIDState:
    """Stooke, Achiam and Abbeel 2020, algorithm 2: lambda = (K_P e + I + K_D [de/dt]+)+, I = (I + K_I e dt)+.

    The proportional and derivative terms use an exponential average of the error, the integral the error itself.
    Time is counted in units of PID_STEPS environment steps: the integral advances by K_I e dt, the average decays by
    pid_ema ** dt and the derivative is divided by dt, with dt = num_steps / PID_STEPS. Under a constant error any
    split of the same steps into updates thus ends in the same integral and average.

    Args:
        episode_cost: float32 []; estimated undiscounted cost of one episode.
        num_steps: environment steps since the previous update.
    """
    dt = num_steps / PID_STEPS
    violation = (episode_cost - hyper.cost_limit) / COST_SCALE
    decay = hyper.pid_ema**dt
    error = decay * state.error + (1.0 - decay) * violation
    rise = jnp.maximum((error - state.error) / dt, 0.0)
    integral = jnp.clip(state.integral + hyper.pid_ki * violation * dt, 0.0, MULTIPLIER_MAX)
    multiplier = jnp.clip(hyper.pid_kp * error + integral + hyper.pid_kd * rise, 0.0, MULTIPLIER_MAX)
    return PIDState(multiplier, integral, error)


@struct.dataclass
class AdamState:
    """State of the softplus-Adam law: multiplier = softplus(raw), float32 []."""

    multiplier: jax.Array
    raw: jax.Array
    opt_state: optax.OptState


_adam = optax.scale_by_adam()


def init_adam(hyper: "Hyper") -> AdamState:
    """raw = softplus^-1(multiplier_init)."""
    start = hyper.multiplier_init
    raw = start + jnp.log(-jnp.expm1(-start))  # log(exp(start) - 1) without its overflow
    return AdamState(hyper.multiplier_init, raw, _adam.init(raw))


def update_adam(state: AdamState, episode_cost: jax.Array, num_steps: int, hyper: "Hyper") -> AdamState:
    """safety-starter-agents: Adam on the raw parameter under the loss -raw (J_C - limit).

    Adam's step does not depend on the size of the violation, so its length is `dual_lr` per EPOCH_STEPS environment
    steps. Arguments as in `update_pid`.
    """
    with jax.numpy_dtype_promotion("standard"):  # optax multiplies floats by integer step counts
        direction, opt_state = _adam.update(hyper.cost_limit - episode_cost, state.opt_state)
    raw = state.raw - hyper.dual_lr * (num_steps / EPOCH_STEPS) * jnp.asarray(direction)
    return AdamState(jax.nn.softplus(raw), raw, opt_state)


def update_margin(state: PlainState, episode_cost: jax.Array, num_steps: int, hyper: "Hyper") -> PlainState:
    """m = (m + k (J_C - limit))+, the learned margin of safety-starter-agents' CPO: a cost, not a price.

    k is `cpo_margin_lr` per EPOCH_STEPS environment steps. Arguments as in `update_pid`.
    """
    gain = hyper.cpo_margin_lr * (num_steps / EPOCH_STEPS)
    return PlainState(jnp.maximum(state.multiplier + gain * (episode_cost - hyper.cost_limit), 0.0))


NONE = Law(lambda _: PlainState(jnp.float32(0.0)), keep)
FIXED = Law(lambda hyper: PlainState(hyper.multiplier_init), keep, ("multiplier_init",))
MARGIN = Law(NONE.init, update_margin, ("cost_limit", "cpo_margin_lr"))
LAWS = {
    "pid": Law(init_pid, update_pid, ("cost_limit", "multiplier_init", "pid_kp", "pid_ki", "pid_kd", "pid_ema")),
    "adam": Law(init_adam, update_adam, ("cost_limit", "multiplier_init", "dual_lr")),
}
