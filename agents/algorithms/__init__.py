"""The algorithms by name: for each what it adds to the loop of `agents.loop`, and nothing else."""

from agents import lagrange
from agents.algorithms import cpo, crpo, focops, p3o, ppo, trust_region
from agents.algorithms.base import Algorithm
from agents.wrappers import EarlyTerminated, Saute

ALGORITHMS = {
    "ppo": Algorithm(objective=ppo.objective, law=lagrange.NONE),
    "ppo_lagrangian": Algorithm(objective=ppo.objective),
    "ppo_fixed": Algorithm(objective=ppo.objective, law=lagrange.FIXED),
    "ppo_saute": Algorithm(objective=ppo.objective, law=lagrange.NONE, wrapper=Saute),
    "ppo_early_terminated": Algorithm(objective=ppo.objective, law=lagrange.NONE, wrapper=EarlyTerminated),
    "focops": Algorithm(objective=focops.objective),
    "crpo": Algorithm(objective=crpo.objective, law=lagrange.NONE),
    "p3o": Algorithm(objective=p3o.objective, law=lagrange.NONE),
    "trpo": Algorithm(step=trust_region.step, law=lagrange.NONE),
    "trpo_lagrangian": Algorithm(step=trust_region.step),
    "trpo_saute": Algorithm(step=trust_region.step, law=lagrange.NONE, wrapper=Saute),
    "trpo_early_terminated": Algorithm(step=trust_region.step, law=lagrange.NONE, wrapper=EarlyTerminated),
    "cpo": Algorithm(step=cpo.step, law=lagrange.MARGIN),
}
