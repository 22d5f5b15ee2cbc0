"""The algorithms by name: for each what it adds to the loop of `agents.loop`, and nothing else."""

from agents import lagrange
from agents.algorithms import cpo, crpo, focops, p3o, ppo, trust_region
from agents.algorithms.base import Algorithm
from agents.wrappers import EarlyTerminated, Saute

CLIPPED, LIMITED, SAUTE = ("clip_eps",), ("cost_limit",), ("cost_limit", "unsafe_reward")  # what several of them use

ALGORITHMS = {
    "ppo": Algorithm(objective=ppo.objective, law=lagrange.NONE, settings=CLIPPED),
    "ppo_lagrangian": Algorithm(objective=ppo.objective, settings=CLIPPED),
    "ppo_fixed": Algorithm(objective=ppo.objective, law=lagrange.FIXED, settings=CLIPPED),
    "ppo_saute": Algorithm(objective=ppo.objective, law=lagrange.NONE, wrapper=Saute, settings=(*CLIPPED, *SAUTE)),
    "ppo_early_terminated": Algorithm(
        objective=ppo.objective, law=lagrange.NONE, wrapper=EarlyTerminated, settings=(*CLIPPED, *LIMITED)
    ),
    "focops": Algorithm(objective=focops.objective, settings=("focops_temperature",)),
    "crpo": Algorithm(objective=crpo.objective, law=lagrange.NONE, settings=(*CLIPPED, *LIMITED, "crpo_tolerance")),
    "p3o": Algorithm(objective=p3o.objective, law=lagrange.NONE, settings=(*CLIPPED, *LIMITED, "p3o_kappa")),
    "trpo": Algorithm(step=trust_region.step, law=lagrange.NONE),
    "trpo_lagrangian": Algorithm(step=trust_region.step),
    "trpo_saute": Algorithm(step=trust_region.step, law=lagrange.NONE, wrapper=Saute, settings=SAUTE),
    "trpo_early_terminated": Algorithm(
        step=trust_region.step, law=lagrange.NONE, wrapper=EarlyTerminated, settings=LIMITED
    ),
    "cpo": Algorithm(step=cpo.step, law=lagrange.MARGIN),
}
