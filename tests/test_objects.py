"""Costs, potential and success from hand-made views, without physics."""

import jax.numpy as jnp
import numpy as np
import pytest

from mjx_safety.objectives import Goal
from mjx_safety.objects import Hazards, Vases
from mjx_safety.view import View


def view(**kinds):
    pos = {name: jnp.array(value, jnp.float32) for name, value in kinds.items() if name not in ("linvel", "contacts")}
    return View(
        robot_pos=jnp.array([0.0, 0.0, 0.1]),
        robot_mat=jnp.eye(3),
        pos=pos,
        linvel={"vases": jnp.array(kinds.get("linvel", np.zeros((2, 3))), jnp.float32)},
        contacts={"vases": jnp.array(kinds.get("contacts", np.zeros(2)), jnp.float32)},
    )


def test_hazards_cost_the_depth_inside_each_disc():
    costs = Hazards(3).raw_costs(view(hazards=[[0.15, 0, 0.02], [0, -0.05, 0.02], [0.21, 0, 0.02]]))
    np.testing.assert_allclose(costs["cost_hazards"], 0.05 + 0.15, rtol=1e-5)


def test_on_the_rim_a_hazard_costs_nothing():
    assert Hazards(1, size=0.25).raw_costs(view(hazards=[[0.25, 0, 0.02]]))["cost_hazards"] == 0


def test_vases_cost_contact_points_and_speed():
    moving = [[3e-4, 4e-4, 0.0], [9.9e-5, 0.0, 0.0]]
    costs = Vases(2).raw_costs(view(vases=np.ones((2, 3)), linvel=moving, contacts=[4, 1]))
    assert costs["cost_vases_contact"] == 5
    np.testing.assert_allclose(costs["cost_vases_velocity"], 5e-4, rtol=1e-5)  # the second one is below the threshold


def test_the_goal_pays_the_way_on_the_floor_and_is_reached_at_its_rim():
    goal = Goal()
    np.testing.assert_allclose(goal.potential(view(goal=[[3.0, 4.0, 0.16]])), 5.0, rtol=1e-6)
    assert goal.reached(view(goal=[[0.0, 0.3, 0.16]]))
    assert not goal.reached(view(goal=[[0.0, 0.301, 0.16]]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Hazards(-1), "Hazards.num is -1"),
        (lambda: Vases(2, size=0.0), "Vases.size is 0.0"),
        (lambda: Goal(size=-1.0), "Goal.size is -1.0"),
    ],
)
def test_wrong_numbers_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
