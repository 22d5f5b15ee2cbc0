"""Episodes under a frozen policy, with sampled and with mean actions, and what they add up to."""

import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from agents import aggregate
from agents.algorithms import ALGORITHMS
from agents.config import Config
from agents.policy import Policy
from agents.wrappers import Wrapper

if TYPE_CHECKING:
    from mjx_safety import Env

ACTIONS = {"stochastic": "sampled", "deterministic": "mean"}  # by mode
MODES = tuple(ACTIONS)
Episodes = dict[str, np.ndarray]  # "return", "cost", "goals" and "length", each [episodes]


def _run(
    env: "Env",
    wrapper: type[Wrapper] | None,
    episodes: int,
    frames: int,
    policies: Policy,
    cost_limits: jax.Array,
    key: jax.Array,
    noise_scales: jax.Array,
) -> Any:
    """Totals [agents, modes, episodes], and the states [agents, modes, frames] of each mode's first episode."""

    def mode(policy: Policy, cost_limit: jax.Array, noise_scale: jax.Array) -> Any:
        seen: Any = wrapper(env, cost_limit) if wrapper else env
        reset_key, act_key = jax.random.split(key)  # the same layouts for every agent and mode
        states = jax.vmap(seen.reset)(jax.random.split(reset_key, episodes))
        zeros = jnp.zeros(episodes, jnp.float32)
        totals = {"return": zeros, "cost": zeros, "goals": zeros, "length": zeros}

        def step(carry: Any, key: jax.Array) -> Any:
            states, totals, alive = carry
            mean = policy(states.obs)
            noise = jax.random.normal(key, mean.shape, jnp.float32)
            states = jax.vmap(seen.step)(states, mean + noise_scale * jnp.exp(policy.log_std) * noise)
            goals = states.goal_met.astype(jnp.float32)
            gains = {"return": states.reward, "cost": states.cost, "goals": goals, "length": jnp.ones_like(zeros)}
            totals = {name: total + jnp.where(alive, gains[name], 0.0) for name, total in totals.items()}
            alive &= ~(states.terminated | states.truncated)
            return (states, totals, alive), jax.tree.map(lambda x: x[0], states)

        start = states, totals, jnp.ones(episodes, bool)
        keys = jax.random.split(act_key, env.task.num_steps)
        (_, totals, _), first = jax.lax.scan(step, start, keys)
        return totals, jax.tree.map(lambda x: x[:frames], first)

    def agent(policy: Policy, cost_limit: jax.Array) -> Any:
        return jax.vmap(lambda scale: mode(policy, cost_limit, scale))(noise_scales)

    return jax.vmap(agent)(policies, cost_limits)


def run_episodes(
    env: "Env",
    policies: Policy,
    key: jax.Array,
    episodes: int,
    modes: tuple[str, ...] = MODES,
    frames: int = 0,
    config: Config | None = None,
) -> tuple[list[dict[str, Episodes]], Any]:
    """Run whole episodes from fresh layouts, all in one compiled program.

    Args:
        env: a single environment.
        policies: leaves [agents, ...].
        key: typed random key; every agent and mode meets the same layouts.
        episodes: number of episodes per agent and mode.
        modes: "stochastic" samples actions, "deterministic" takes their mean.
        frames: how many states of the first episode to keep for a video.
        config: the settings of the run that the policies come from; they may need a wrapper to see what they learned
            to look at. Rewards and costs are the environment's own in any case.

    Returns:
        Per agent and mode the episodes, and the first agent's states [frames] under the first mode.
    """
    noise_scales = jnp.array([1.0 if mode == "stochastic" else 0.0 for mode in modes], jnp.float32)
    wrapper = ALGORITHMS[config.algorithm].wrapper if config else None
    wrapper = wrapper if wrapper and wrapper.needed_by_policy else None
    limits = [agent["cost_limit"] for agent in config.agents] if config else [0.0] * len(policies.log_std)
    run = jax.jit(functools.partial(_run, env, wrapper, episodes, frames))
    totals, first = run(policies, jnp.array(limits, jnp.float32), key, noise_scales)
    totals = jax.device_get(totals)
    num_agents = len(policies.log_std)
    agents = [
        {mode: {name: total[a, m] for name, total in totals.items()} for m, mode in enumerate(modes)}
        for a in range(num_agents)
    ]
    length = int(totals["length"][0, 0, 0])
    return agents, jax.tree.map(lambda x: x[0, 0, :length], first)


def summarize(episodes: Episodes, cost_limit: float) -> dict[str, float]:
    """Means, standard deviations and 95 % confidence half-widths (1.96 standard errors) over episodes."""
    summary: dict[str, float] = {"episodes": len(episodes["return"])}
    for name, values in episodes.items():
        std = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
        summary |= {
            name: float(np.mean(values)),
            f"{name}_std": std,
            f"{name}_ci95": 1.96 * std / len(values) ** 0.5,
        }
    return summary | {"within_limit": float(np.mean(episodes["cost"] <= cost_limit))}


def summarize_settings(settings: list[dict[str, float]], agents: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the seeds of each setting say together.

    Args:
        settings: as `Config.settings`.
        agents: per agent its "cost_rate" and, under each mode, a summary; all seeds of a setting, then the next.

    Returns:
        Per setting its values; the number of "seeds"; "best", the index of the agent with the highest return among
        those within the limit, or with the lowest cost where none is; and for the cost rate and each mode's return,
        cost and goals the IQM over seeds, with the ends "_low" and "_high" of its 95 % bootstrap interval (null for
        one seed).
    """
    num_seeds = len(agents) // len(settings)
    groups = [range(i * num_seeds, (i + 1) * num_seeds) for i in range(len(settings))]
    return [
        {
            **setting,
            "seeds": num_seeds,
            "best": max(group, key=lambda agent: _merit(agents[agent])),
            **_over_seeds("cost_rate", [agents[agent]["cost_rate"] for agent in group]),
            **{mode: _over_modes([agents[agent][mode] for agent in group]) for mode in MODES if mode in agents[0]},
        }
        for setting, group in zip(settings, groups, strict=True)
    ]


def _merit(agent: dict[str, Any]) -> tuple[bool, float]:
    """Ray et al. 2019, section 4.3: whoever breaks the limit is worse than whoever keeps it, whatever the return."""
    summary = next(agent[mode] for mode in MODES if mode in agent)
    safe = summary["cost"] <= agent["cost_limit"]
    return safe, summary["return"] if safe else -summary["cost"]


def _over_modes(summaries: list[dict[str, float]]) -> dict[str, float | None]:
    parts = [_over_seeds(name, [summary[name] for summary in summaries]) for name in ("return", "cost", "goals")]
    return {name: value for part in parts for name, value in part.items()}


def _over_seeds(name: str, values: list[float]) -> dict[str, float | None]:
    scores = np.array(values)
    low, high = aggregate.interval(scores[None]) or (None, None)
    return {name: float(aggregate.iqm(scores)), f"{name}_low": low, f"{name}_high": high}


def report(varied: list[str], agents: list[dict[str, Any]], settings: list[dict[str, Any]]) -> str:
    """The evaluation as plain tables: every agent, then every setting of several seeds.

    Args:
        varied: what sets the settings apart, "cost_limit" and the swept names.
        agents, settings: what evaluation.json holds under these names.
    """
    names = ["limit" if name == "cost_limit" else name for name in varied]
    rows: list[tuple[str, ...]] = [
        ("seed", *names, "actions", "episodes", "return", "cost", "goals", "within limit", "training cost rate")
    ]
    for agent in agents:
        for mode, actions in ACTIONS.items():
            if mode in agent:
                s = agent[mode]
                spread = [f"{s[name]:.1f} ± {s[name + '_ci95']:.1f}" for name in ("return", "cost", "goals")]
                start = str(agent["seed"]), *(f"{agent[name]:g}" for name in varied), actions, str(s["episodes"])
                rows.append((*start, *spread, f"{s['within_limit']:.0%}", f"{agent['cost_rate']:.4f}"))
    text = _table(rows) + "\n(± 95 % confidence interval of the mean)"
    if len(agents) == len(settings):
        return text
    rows = [(*names, "actions", "seeds", "return", "cost", "goals", "training cost rate", "best seed")]
    for setting in settings:
        for mode, actions in ACTIONS.items():
            if mode in setting:
                cells = [_cell(setting[mode], name, ".1f") for name in ("return", "cost", "goals")]
                start = *(f"{setting[name]:g}" for name in varied), actions, str(setting["seeds"])
                rate, best = _cell(setting, "cost_rate", ".4f"), str(agents[setting["best"]]["seed"])
                rows.append((*start, *cells, rate, best))
    return text + "\n\n" + _table(rows) + "\n(interquartile mean over seeds, 95 % bootstrap interval)"


def _cell(values: dict[str, float], name: str, form: str) -> str:
    return f"{values[name]:{form}} [{values[name + '_low']:{form}}, {values[name + '_high']:{form}}]"


def _table(rows: list[tuple[str, ...]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
