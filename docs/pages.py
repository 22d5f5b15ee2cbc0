"""The text of the pages, read off the tasks, the classes and their docstrings."""

import dataclasses
import functools
import inspect
import re
from typing import Any

from docs import peers, throughput
from docs.tables import results, table
from mjx_safety import Env, articulated, scene
from mjx_safety.objectives import Button, Circle, Goal, Objective, Push, Run
from mjx_safety.objects import Box, Buttons, Gremlins, Hazards, Objects, Pillars, Vases, Walls
from mjx_safety.robots import CAR, DOGGO, POINT, Robot
from mjx_safety.suite import TASKS
from mjx_safety.task import Task

ROBOTS = (POINT, CAR, DOGGO)
KINDS: tuple[Any, ...] = (Hazards, Vases, Pillars, Buttons, Gremlins, Box, Walls)
FAMILIES: dict[str, tuple[type[Objective], tuple[str, ...]]] = {
    "goal": (Goal, ("Goal0", "Goal1", "Goal2")),
    "button": (Button, ("Button0", "Button1", "Button2")),
    "push": (Push, ("Push0", "Push1", "Push2")),
    "circle": (Circle, ("Circle",)),
    "run": (Run, ("Run",)),
}
GENERATED = "<!-- Written by `python -m docs`; change the code that it describes instead. -->\n\n"
DEFAULT = (articulated.ITERATIONS, articulated.CONTACTS, articulated.FRICTIONS)
READINGS = (  # by pattern of the name: what is read, and its unit
    (r"accelerometer", "acceleration and the floor's support, robot frame", "m/s^2"),
    (r"velocimeter", "velocity, robot frame", "m/s"),
    (r"gyro", "turning rates, robot frame", "rad/s"),
    (r"magnetometer", "direction (0, -0.5, 0) of the world, robot frame", ""),
    (r"(.*)_lidar", "closeness of {} in 16 sectors, 0 to 1", ""),
    (r"ballquat_rear", "rotation matrix of the rear ball, row by row", ""),
    (r"ballangvel_rear", "turning rates of the rear ball", "rad/s"),
    (r"jointpos_(.*)", "sine and cosine of {}", ""),
    (r"jointvel_(.*)", "rate of {}", "rad/s"),
    (r"touch_(.*)", "normal force at {}", "N"),
)


_env = functools.cache(Env)  # up to a second each


def pages() -> dict[str, str]:
    """Text by path under `docs/`."""
    text = {"README.md": _index(), "options.md": _options(), "random_policy.md": _random_policy()}
    text |= {"physics.md": _physics(), "throughput.md": throughput.page(), "peers.md": peers.page()}
    text |= {f"robots/{robot.name.lower()}.md": _robot(robot) for robot in ROBOTS}
    text |= {f"objects/{kind.name}.md": _kind(kind) for kind in KINDS}
    text |= {f"tasks/{name}.md": _family(name) for name in FAMILIES}
    return {name: GENERATED + body for name, body in text.items()}


def _index() -> str:
    robots = ", ".join(f"[{robot.name}](robots/{robot.name.lower()}.md)" for robot in ROBOTS)
    kinds = ", ".join(f"[{kind.name}](objects/{kind.name}.md)" for kind in KINDS)
    families = ", ".join(f"[{name}](tasks/{name}.md)" for name in FAMILIES)
    rows = [
        (
            f"`{name}`",
            task.robot.name,
            type(task.objective).__name__,
            _things(task),
            _costs(task),
            _env(task).observation_size,
        )
        for name, task in TASKS.items()
    ]
    return (
        f"# The environments\n\nRobots: {robots}. Objects: {kinds}. Tasks: {families}.\n\n"
        "Settings: [options](options.md). Physics: [how contacts are computed, and how exactly](physics.md). "
        "Speed: [throughput](throughput.md), [beside others](peers.md). "
        "Beside the original: [random policy](random_policy.md), [learning](learning.md).\n\n"
        "Every id is also known under its original name, such as `Safexp-PointGoal1-v0`.\n\n"
        + table(("task", "robot", "objective", "objects", "costs", "observation"), rows)
    )


def _robot(robot: Robot) -> str:
    env = _env(TASKS[f"{robot.name}Run"])
    model = scene.robot_model(robot)
    motors = [
        (f"`{model.actuator(i).name}`", *(f"{x:g}" for x in model.actuator_gear[i][:1]), _limits(model, i))
        for i in range(model.nu)
    ]
    facts = [
        ("mass", f"{1000 * model.body_mass.sum():.4g} g"),
        ("physics step", f"{model.opt.timestep:g} s"),
        ("environment step", f"{10 * model.opt.timestep:g} s"),
        ("degrees of freedom", model.nv),
        ("actions", model.nu),
        ("height of the body's origin in its default pose", f"{robot.height:g} m"),
    ]
    return (
        f"# {robot.name}\n\n![{robot.name}](../pictures/{robot.name.lower()}.png)\n\n"
        + table(("", ""), facts)
        + "\nEvery action is clipped to [-1, 1].\n\n"
        + table(("action", "gear", "bound on the force before the gear"), motors)
        + "\nWhat it senses of itself, in every task:\n\n"
        + _readings(env)
        + f"\nIts MJCF: `mjx_safety/assets/{robot.asset}`.\n"
    )


def _kind(kind: Any) -> str:
    thing = kind()
    costs = inspect.getdoc(kind.raw_costs) if kind.raw_costs.__doc__ else "They cost nothing."
    body = "a body that moves" if thing.boxes() else "a fixed body" if thing.obstacle() else "nothing"
    users = [f"`{name}`" for name, task in TASKS.items() if any(isinstance(k, kind) for k in task.objects)]
    return (
        f"# {kind.__name__}\n\n![{kind.name}](../pictures/{kind.name}.png)\n\n{_summary(kind)}\n\n"
        f"In the physics: {body}. Height of the centres: {thing.height:g} m.\n\n"
        f"Cost: {costs}\n\n{_fields(thing)}\n"
        + (f"In {', '.join(users)}.\n" if users else "In none of the benchmark's tasks.\n")
    )


def _family(family: str) -> str:
    objective, levels = FAMILIES[family]
    tasks = {level: TASKS[f"Point{level}"] for level in levels}
    numbers = [
        ("extents", *(f"±{task.extents[2]:g} m" for task in tasks.values())),
        ("lidar sees", *(f"{task.lidar.max_dist:g} m" for task in tasks.values())),
        ("objects", *(_things(task) for task in tasks.values())),
        ("costs", *(_costs(task) or "none" for task in tasks.values())),
        ("episode", *(f"{task.num_steps} steps" for task in tasks.values())),
    ]
    pictures = " ".join(f"![Point{level}](../pictures/Point{level}.png)" for level in levels)
    observed = "\n".join(f"### Point{level}\n\n{_readings(_env(task))}" for level, task in tasks.items())
    sizes = [
        (level, *(_env(TASKS[robot.name + level]).observation_size for robot in ROBOTS)) for level in levels
    ]  # fmt: skip
    bonus = f" Bonus `{objective.bonus}` for every goal reached." if objective.bonus else ""
    return (
        f"# {objective.__name__}\n\n{pictures}\n\n{_summary(objective)}\n\n"
        f"Reward of a step: `{_first_line(objective.reward)}`.{bonus}\n\n"
        f"Success: {_first_line(objective.reached) if objective.bonus else 'there is none.'}\n\n"
        f"{_fields(objective())}\n## Levels\n\n"
        + table(("", *levels), numbers)
        + "\n## Observation\n\nSizes by robot:\n\n"
        + table(("", *(robot.name for robot in ROBOTS)), sizes)
        + f"\nOther robots add their own sensors to the Point's.\n\n{observed}"
    )


def _options() -> str:
    task = TASKS["PointGoal1"]
    return (
        "# Options\n\nFields of `mjx_safety.Task`; `mjx_safety.make(id, field=value, ...)` replaces them. Randomness "
        "comes from the keys given to `reset` alone.\n\n"
        + _fields(task)
        + "\n`Placement` says where things are put, `Lidar` how they are seen:\n\n"
        + _fields(task.robot_placement)
        + "\n"
        + _fields(task.lidar)
        + "\nEvery kind of object has these, and those on its own page:\n\n"
        + _fields(Hazards(), only=Objects)
    )


def _random_policy() -> str:
    head = (
        "# Uniform random actions beside the original\n\n"
        "Means over episodes of 1,000 steps: ours / the original's 130 episodes, and in brackets their difference in "
        "standard errors. Costs are very skewed: most episodes have none. Made by `python -m benchmarks.random_policy`."
        "\n\n"
    )
    rows = {row["task"]: row for row in results("random_policy")}  # the last measurement counts
    names = ("return", "cost", "hazards", "vases_contact", "vases_velocity", "pillars", "gremlins", "buttons")
    cells = []
    for task in [task for task in TASKS if task in rows]:
        means = {name.removeprefix("cost_"): x for name, x in rows[task]["means"].items()}
        shown = (f"{x['ours']:.3g} / {x['original']:.3g} ({x['z']:+.1f})" if (x := means.get(n)) else "" for n in names)
        cells.append((f"`{task}`", rows[task]["episodes"], *shown))
    return head + table(("task", "episodes", *names), cells)


PHYSICS = """# Physics

Every robot and every thing that can be pushed keeps the published constants of Safety Gym, and every contact is
MuJoCo's: soft, condim 6 with the pyramidal cone, solref (0.02, 1), solimp (0.9, 0.95, 0.001, 0.5, 2), Euler's method
with implicit damping. What differs from MuJoCo and MJX is how little is computed, and in which form.

- **Point** (`planar.py`): three degrees of freedom in closed form; its contact with the floor is inert. Among pillars,
  buttons and walls Newton's method (`newton.py`) finds its accelerations.
- **Car, Doggo** (`articulated.py`): each Newton step on Gauss's principle is one pass of the articulated-body algorithm
  with inertias to which contacts are added, in single components, so that a batch of robots is elementwise arithmetic.
- **Vases, gremlins, the push box** (`boxes.py`): six degrees of freedom each, solved beside a robot that moves as
  prescribed, because they weigh 1/650 of the lightest robot or less. The push box weighs 1/40 of the Point: there the
  two are one system, each Newton step an elimination of the box's six accelerations and then the Point's three. Each
  contact is worked out at its point: a force, and the 3 by 3 matrix by which it falls as the point accelerates
  (`points.py`).
- **Only what can touch** (`physics.py`): every environment pays for its robot on the floor; those in which something is
  in reach or still moving are gathered into chunks and stepped again with contacts (`sparse.cond`).

What is left out: contacts of the Doggo's legs with each other (5 of 87,000 contacts in the recordings), of the Car's
chassis with the floor, of boxes of different kinds, of boxes beyond the few that are solved at once, and of gremlins
that no robot is near; a third point of a body on the floor; rolling friction of Car and Doggo (0.1 mm), turning and
rolling friction of boxes. Walls meet a robot's corners only; a robot meets the two nearest obstacles of a kind, a box
those that are nearest to the foremost box.

What is not exact yet: the Doggo does not feel the box that it pushes, 0.4 % of its weight, so the two part from the
original's way by centimetres within a second; and where car, box and pillar collide, a twentieth of the recorded
contacts comes a step early or late.

What recordings do not tell: the heading to which a gremlin's weld turns it back. `set_world` works it out from how the
gremlin stands off its target and how a robot leans on it, where `gremlins_yaw` is not given. And MuJoCo's collider for
boxes and cylinders stops some 0.3 micrometres short of the overlap, differently at every step, and so turns the normal
by a milliradian: a robot whose nose hops along a pillar goes other ways within ten steps, here as in C MuJoCo with a
collider that does not stop short. Given the exact contacts, C MuJoCo accelerates as the Point does here, to 1e-4.

## MuJoCo Warp instead

`make(task, impl="warp")` has [MuJoCo Warp](https://mujoco.readthedocs.io/en/latest/mjwarp/) compute the physics: one
general model of the whole scene (`warp_physics.py`), every contact of every thing in every physics step, with all of
MuJoCo's terms. What the list above leaves out is there: the Doggo feels its box, and car, box and pillar collide as
recorded. One term is Warp's own: it turns the friction pyramid under a leg that stands within 30 degrees of upright
along the world's axes instead of along the leg, so that half of the boxes that a Doggo pushes end elsewhere.
There is room for half as many contacts again as a heap of everything has; Warp leaves out what is beyond,
and prints that it does. Tasks, layouts, observations, rewards and costs are the same code.
`pip install -c constraints.txt -e ".[warp]"`.

- On a CPU choose the default. Warp compiles a scene's kernels in a minute, keeps them, and then steps far slower: good
  for checking a result with MuJoCo's own terms, no more.
- On an NVIDIA GPU begin with the default, which computes a fraction of the contacts and was [measured](throughput.md)
  on one. Warp computes all of them, in kernels of its own, and was not yet; we expect it to be slower.
  `python -m benchmarks.throughput --impls jax warp` tells for a task and batch.
- Where exactness matters more than speed, Push with a Car above all, choose Warp.

## Error and speed

Newton steps, a body's contacts with the floor and directions of friction (5: all of condim 6; 3: no rolling; 2: sliding
alone) beside C MuJoCo in float64 on the same model: error of the position after 1 and 10 environment steps under random
commands, in millimetres, and speed relative to the finest setting. Made by `python -m benchmarks.frontier`; the default
is in bold.

![error and speed](pictures/frontier.png)

"""


def _physics() -> str:
    rows = {(x["robot"], x["iterations"], x["contacts"], x["frictions"]): x for x in results("frontier")}
    cells = []
    for setting, x in rows.items():
        shown = [
            x["robot"], x["iterations"], x["contacts"], x["frictions"],
            f"{x['error_1_mm']:.2g} / {x['error_1_mm_p90']:.2g}",
            f"{x['error_10_mm']:.2g} / {x['error_10_mm_p90']:.2g}", f"{x['speed']:.2f}",
        ]  # fmt: skip
        cells.append(tuple(f"**{cell}**" for cell in shown) if setting[1:] == DEFAULT else tuple(shown))
    head = ("robot", "Newton steps", "contacts", "friction", "1 step: median / 90 %", "10 steps", "speed")
    return PHYSICS + table(head, cells)


def _summary(cls: type) -> str:
    """A class's docstring without the list of its attributes."""
    return (inspect.getdoc(cls) or "").split("\nAttributes:")[0].strip()


def _first_line(function: Any) -> str:
    return (inspect.getdoc(function) or "").splitlines()[0]


def _fields(value: Any, only: type | None = None) -> str:
    """A table of a dataclass's fields, their defaults in `value` and what its docstring says of them."""
    said: dict[str, str] = {}
    for cls in reversed(type(value).__mro__):
        doc = inspect.getdoc(cls) or ""
        if "Attributes:" in doc and (only is None or cls is only):
            for name, text in re.findall(r"^  (\w+): (.*(?:\n    .*)*)", doc.split("Attributes:")[1], re.MULTILINE):
                said[name] = " ".join(text.split())
    rows = [
        (f"`{field.name}`", f"`{getattr(value, field.name)!r}`", said[field.name])
        for field in dataclasses.fields(value)
        if field.name in said
    ]
    return table(("field", "value", "meaning"), rows)


def _readings(env: Env) -> str:
    rows = []
    for name, place in env.observation_slices.items():
        what, unit = next(
            (text.format(*match.groups()), unit)
            for pattern, text, unit in READINGS
            if (match := re.fullmatch(pattern, name))
        )
        rows.append((f"`{name}`", f"{place.start}:{place.stop}", what, unit))
    return table(("name", "entries", "what", "unit"), rows)


def _things(task: Task) -> str:
    return ", ".join(f"{kind.num} {kind.name}" for kind in task.objects)


def _costs(task: Task) -> str:
    return ", ".join(kind.name for kind in task.objects if kind.constrained)


def _limits(model: Any, index: int) -> str:
    if not model.actuator_forcelimited[index]:
        return "none"
    low, high = model.actuator_forcerange[index]
    return f"{low:g} to {high:g}"


def links(text: str) -> list[str]:
    """Files that a page refers to, relative to it."""
    return re.findall(r"\]\(([\w./]+)\)", text)
