"""Settings of a training run: one frozen dataclass, three presets, checks that run before anything is compiled."""

import dataclasses
import difflib
import itertools
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import jax
import tyro

from agents.algorithms import ALGORITHMS
from agents.lagrange import LAWS, Law
from agents.wrappers import Saute

Sweep = tuple[tuple[str, tuple[float, ...]], ...]  # ((setting, its values), ...)


def _parse_sweep(words: Iterable[str]) -> Sweep:
    """The command line's NAME=V1,V2,..."""
    sweep = []
    for word in words:
        name, _, values = word.partition("=")
        try:
            sweep.append((name.replace("-", "_"), tuple(float(value) for value in values.split(","))))
        except ValueError:
            raise ValueError(f"{word!r} is not of the form {name or 'lr'}=VALUE,VALUE") from None
    return tuple(sweep)


def _format_sweep(sweep: Sweep) -> list[str]:
    return [f"{name}={','.join(f'{value:g}' for value in values)}" for name, values in sweep]


SWEEP_WORDS = tyro.constructors.PrimitiveConstructorSpec(
    nargs="*",
    metavar="NAME=VALUE,VALUE",
    instance_from_str=_parse_sweep,
    is_instance=lambda sweep: isinstance(sweep, tuple),
    str_from_instance=_format_sweep,
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Settings of a run. The defaults are the `cpu` preset."""

    algorithm: str = "trpo_lagrangian"
    """What learns; see docs/algorithms.md."""

    total_steps: int = 8_000_000
    """Environment steps per agent; rounded down to whole updates of num_envs x num_steps."""
    num_envs: int = 512
    """Environments stepped together, per agent."""
    num_groups: int = 2
    """Groups that the environments of an agent are split into: several devices can share an agent by whole groups.
    Must divide num_envs. Results depend on it, but not on the number of devices."""
    num_steps: int = 64
    """Steps per environment between updates."""
    seeds: tuple[int, ...] = (0,)
    """One agent per seed, cost limit and combination of swept values, all trained together in one program."""
    cost_limits: Annotated[tuple[float, ...], tyro.conf.arg(aliases=("--cost-limit",))] = (25.0,)
    """Allowed cost per episode."""
    sweep: Annotated[Sweep, SWEEP_WORDS] = ()
    """Continuous settings with several values, such as lr=1e-4,3e-4 pid_kp=0.2,0.5: all combinations are trained."""

    num_epochs: int = 1
    """Passes over the batch per update."""
    num_minibatches: int = 16
    """Minibatches per pass; must divide the num_envs x num_steps / num_groups steps of a group."""
    hidden_sizes: tuple[int, ...] = (64, 64)
    """Hidden layers of each of the three networks."""
    lr: float = 3e-4
    """Adam step size of the policy."""
    critic_lr: float = 1e-3
    """Adam step size of both critics."""
    max_grad_norm: float | None = 1.0
    """Gradient norm at which each network's gradient is clipped; None for no clipping."""
    gamma: float = 0.99
    """Discount of rewards and costs."""
    gae_lambda: float = 0.97
    """Trace decay of both advantage estimates."""
    clip_eps: float = 0.2
    """PPO's clipping range of the probability ratio."""
    target_kl: float = 0.015
    """Size of the policy's move per update: trust region algorithms go up to this KL(new || old), the others stop
    learning for the rest of the update once they have passed it."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus; trust region algorithms have none."""
    normalize_obs: bool = True
    """Scale observations by their running mean and standard deviation."""

    multiplier: str = "pid"
    """Law of the Lagrange multiplier: pid or adam."""
    multiplier_init: float = 1.0
    """The multiplier at the start; with ppo_fixed, for good."""
    pid_kp: float = 0.5
    """PID: gain of the averaged error, in units of 10 cost."""
    pid_ki: float = 0.05
    """PID: gain of the integral per 32,768 environment steps."""
    pid_kd: float = 1.0
    """PID: gain of a rising averaged error per 32,768 environment steps."""
    pid_ema: float = 0.9
    """PID: decay of the averaged error over 32,768 environment steps."""
    dual_lr: float = 0.05
    """Adam law: step of the raw multiplier per 30,000 environment steps."""

    cpo_margin_lr: float = 0.05
    """cpo: share of a violation by which the margin below the limit grows per 30,000 environment steps."""
    focops_temperature: float = 1.5
    """focops: weight of the divergence beside the advantage."""
    crpo_tolerance: float = 0.0
    """crpo: cost above the limit that is not acted on yet."""
    p3o_kappa: float = 20.0
    """p3o: slope of the penalty."""
    unsafe_reward: float = -0.1
    """..._saute: what a step is worth once the budget is spent; no more than what keeping to it pays. OmniSafe's -1
    outweighs an episode's return within 30 steps, so that agents learn to stand still in Safety Gym's tasks."""

    updates_per_chunk: int = 5
    """Updates per compiled call; after each call metrics are written and the state is saved. No effect on results."""
    eval_episodes: int = 100
    """Evaluation episodes after training, with sampled and with mean actions; 0 for none."""
    video_steps: int = 400
    """Length of the video after training; 0 for none."""

    def __post_init__(self):
        for field in ("seeds", "cost_limits", "hidden_sizes"):
            value = getattr(self, field)
            if not isinstance(value, Iterable) or isinstance(value, str):
                raise ValueError(f"{field} is {value!r}; it must be a list of numbers")
            object.__setattr__(self, field, tuple(value))  # JSON and users bring lists
        try:
            pairs = self.sweep.items() if isinstance(self.sweep, Mapping) else self.sweep
            object.__setattr__(self, "sweep", tuple((str(name), tuple(values)) for name, values in pairs))
        except (TypeError, ValueError):
            raise ValueError(f"sweep is {self.sweep!r}; it must be like {{'lr': (1e-4, 3e-4)}}") from None

    @property
    def batch_size(self) -> int:
        """Environment steps per update and agent."""
        return self.num_envs * self.num_steps

    @property
    def num_updates(self) -> int:
        """Updates of the whole run."""
        return self.total_steps // self.batch_size

    @property
    def law(self) -> Law:
        """How the multiplier moves."""
        return ALGORITHMS[self.algorithm].law or LAWS[self.multiplier]

    @property
    def used(self) -> tuple[str, ...]:
        """What its algorithm and its multiplier's law use of cost_limit and, in this order, `CONTINUOUS`."""
        algorithm = ALGORITHMS[self.algorithm]
        own = OF_GRADIENT_STEPS if algorithm.objective else ()
        names = {*SHARED, *self.law.settings, *algorithm.settings, *own}
        return tuple(name for name in ("cost_limit", *CONTINUOUS) if name in names)

    @property
    def settings(self) -> list[dict[str, float]]:
        """What sets groups of agents apart: cost_limit and the swept settings, every combination of them."""
        names = ("cost_limit", *(name for name, _ in self.sweep))
        values = (self.cost_limits, *(values for _, values in self.sweep))
        return [dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values)]

    @property
    def agents(self) -> list[dict[str, float]]:
        """Seed and setting of every agent in the order of the agent axis: all seeds of a setting, then the next."""
        return [{"seed": seed, **setting} for setting in self.settings for seed in self.seeds]


def label(agent: Mapping[str, float]) -> str:
    """An agent or a setting in words: "seed 1, cost limit 25, lr 0.0003"."""
    words = {name.replace("cost_limit", "cost limit"): _word(value) for name, value in agent.items()}
    return ", ".join(f"{name} {word}" for name, word in words.items())


def slug(agent: Mapping[str, float]) -> str:
    """An agent or a setting as a file name: "cost_limit=25,lr=0.0003"."""
    return ",".join(f"{name}={_word(value)}" for name, value in agent.items())


def _word(value: float) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


PRESETS = {
    # On PointGoal1 23 return at 24 cost within minutes on two CPU cores: docs/learning.md.
    "cpu": Config(),
    # Few, large updates: a GPU is bound by kernel launches, not by rows. The multiplier moves as much per update as
    # with the cpu preset, whose batch is an eighth, for a trust region keeps the policy to its pace too.
    "gpu": Config(
        total_steps=100_000_000,
        num_envs=16384,
        num_groups=1,
        num_steps=16,
        num_epochs=2,
        num_minibatches=16,
        pid_ki=0.05 / 8,
        pid_kd=1.0 * 8,
        pid_ema=0.9 ** (1 / 8),
        dual_lr=0.05 / 8,
        cpo_margin_lr=0.05 / 8,
        updates_per_chunk=20,
    ),
    # The settings of safety-starter-agents (Ray, Achiam and Amodei 2019), with its 80 full-batch passes cut into
    # minibatches. What stays ours: value targets are GAE + V instead of discounted returns-to-go, initial weights
    # orthogonal with a small policy head instead of Glorot's, Adam's eps 1e-5, the KL stop checked per minibatch,
    # Fisher's matrix from a part of the batch.
    # target_kl is where their PPO stops, 1.2 x 0.01; the trust region of their TRPO and CPO is PAPER_TRUST_REGION.
    "paper": Config(
        algorithm="ppo_lagrangian",
        total_steps=10_000_000,
        num_envs=1024,
        num_groups=1,
        num_steps=32,
        num_epochs=20,
        num_minibatches=4,
        hidden_sizes=(256, 256),
        critic_lr=1e-3,
        max_grad_norm=None,
        target_kl=0.012,
        normalize_obs=False,
        multiplier="adam",
        cpo_margin_lr=0.0,
    ),
}


PAPER_TRUST_REGION = 0.01
"""What target_kl is in safety-starter-agents with TRPO and CPO; a preset does not know the algorithm."""


def choose(kind: str, name: str, allowed: Iterable[str]) -> str:
    """`name` if it is allowed, else a ValueError that lists the choices and the nearest one."""
    allowed = list(allowed)
    if name in allowed:
        return name
    near = difflib.get_close_matches(str(name), allowed, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"unknown {kind} {name!r}: choose one of {', '.join(allowed)}{hint}")


def preset(name: str | None = None, **overrides: Any) -> Config:
    """A preset with some fields replaced; which one as in `preset_name`."""
    name = preset_name(name)
    for field in overrides:
        choose("setting", field, (f.name for f in dataclasses.fields(Config)))
    return dataclasses.replace(PRESETS[name], **overrides)


def preset_name(name: str | None = None) -> str:
    """The name, if there is such a preset; without one `gpu` on an accelerator and `cpu` elsewhere."""
    return choose("preset", name or ("cpu" if jax.default_backend() == "cpu" else "gpu"), PRESETS)


def _check(config: Config, fields: str, kind: type, low: float, high: float, what: str, open_low: bool = False) -> None:
    for field in fields.split():
        given = getattr(config, field)
        for value in given if isinstance(given, tuple | list) else (given,):
            number = isinstance(value, kind) and not isinstance(value, bool) and math.isfinite(value)
            if not number or not low <= value <= high or (open_low and value == low):
                raise ValueError(f"{field} must be {what}, got {value!r}")


SHARED = "critic_lr", "max_grad_norm", "gamma", "gae_lambda", "target_kl"
"""Continuous settings that every algorithm uses."""

OF_GRADIENT_STEPS = "lr", "entropy_coef"
"""What a policy that takes trust region steps has no use for."""

CONTINUOUS = tuple(field.name for field in dataclasses.fields(Config) if field.type in (float, float | None))


def validate(config: Config) -> None:
    """Raise a ValueError that names the first setting that is out of range or does not fit the others."""
    integer, real, inf = numbers.Integral, numbers.Real, math.inf
    counts = "total_steps num_envs num_groups num_steps num_epochs num_minibatches updates_per_chunk hidden_sizes"
    _check(config, counts, integer, 1, inf, "a positive integer")
    _check(config, "eval_episodes video_steps", integer, 0, inf, "zero or a positive integer")
    _check(config, "seeds", integer, 0, 2**32 - 1, "an integer from 0 to 2**32 - 1")
    positive = "lr critic_lr clip_eps target_kl focops_temperature" + (
        " max_grad_norm" if config.max_grad_norm is not None else ""
    )
    _check(config, positive, real, 0, inf, "a positive number", open_low=True)
    _check(config, "gamma gae_lambda pid_ema", real, 0, 1, "a number from 0 to 1")
    gains = (
        "entropy_coef multiplier_init pid_kp pid_ki pid_kd dual_lr cpo_margin_lr crpo_tolerance p3o_kappa cost_limits"
    )
    _check(config, gains, real, 0, inf, "zero or a positive number")
    _check(config, "unsafe_reward", real, -inf, inf, "a finite number")
    if not isinstance(config.normalize_obs, bool):
        raise ValueError(f"normalize_obs must be True or False, got {config.normalize_obs!r}")
    choose("algorithm", config.algorithm, ALGORITHMS)
    choose("multiplier law", config.multiplier, LAWS)
    if config.multiplier == "adam" and config.multiplier_init == 0:
        raise ValueError("multiplier_init must be a positive number with the adam law, got 0")
    if ALGORITHMS[config.algorithm].wrapper is Saute and 0 in config.cost_limits:
        raise ValueError(f"cost_limits must be positive numbers with {config.algorithm}, got {config.cost_limits}")
    for field in ("seeds", "cost_limits"):
        values = getattr(config, field)
        if not values or len(set(values)) != len(values):
            raise ValueError(f"{field} needs at least one value and no repeats, got {values}")
    if len(config.cost_limits) > 1 and "cost_limit" not in config.used:
        raise ValueError(
            f"cost_limits is {config.cost_limits}, but {config.algorithm} heeds none, so that agents would learn the "
            "same: give one, for their evaluation, or choose another algorithm"
        )
    if not config.hidden_sizes:
        raise ValueError("hidden_sizes needs at least one layer, for example 64 64")
    if config.num_envs % config.num_groups:
        raise ValueError(
            f"num_groups={config.num_groups} does not divide num_envs={config.num_envs}: "
            "choose another num_envs, or num_groups=1"
        )
    share = config.batch_size // config.num_groups
    if share % config.num_minibatches:
        raise ValueError(
            f"num_minibatches={config.num_minibatches} does not divide the batch of num_envs x num_steps / num_groups "
            f"= {config.num_envs} x {config.num_steps} / {config.num_groups} = {share} steps"
        )
    if config.total_steps < config.batch_size:
        raise ValueError(
            f"total_steps={config.total_steps} is less than one update of num_envs x num_steps = "
            f"{config.batch_size} steps: raise it, or lower num_envs or num_steps"
        )
    for name, values in config.sweep:
        choose("swept setting", name, CONTINUOUS)
        if name not in config.used:
            chosen = f"with multiplier={config.multiplier} " if not ALGORITHMS[config.algorithm].law else ""
            raise ValueError(
                f"sweep of {name}: {config.algorithm} {chosen}does not use it, so that agents would learn the same; "
                f"it uses {', '.join(name for name in config.used if name in CONTINUOUS)}"
            )
        if not values or len(set(values)) != len(values) or [n for n, _ in config.sweep].count(name) > 1:
            raise ValueError(f"sweep needs at least one value of {name} and no repeats, got {config.sweep}")
        for value in values:
            validate(dataclasses.replace(config, sweep=(), **{name: value}))
