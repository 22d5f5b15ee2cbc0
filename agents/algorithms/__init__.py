"""The algorithms by name: for each what it adds to the loop of `agents.loop`, and nothing else."""

from agents import lagrange
from agents.algorithms import ppo
from agents.algorithms.base import Algorithm

ALGORITHMS = {
    "ppo": Algorithm(objective=ppo.objective, law=lagrange.NONE),
    "ppo_lagrangian": Algorithm(objective=ppo.objective),
    "ppo_fixed": Algorithm(objective=ppo.objective, law=lagrange.FIXED),
}
