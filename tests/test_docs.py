"""The pages are what the code says."""

import pathlib

import numpy as np
import pytest

import agents
from agents import run_directory
from agents.loop import METRICS
from docs import pages, peers, throughput

FOLDER = pathlib.Path(pages.__file__).parent


@pytest.fixture(scope="module")
def written():
    return pages.pages()


def test_committed_pages_are_up_to_date(written):
    for name, text in written.items():
        assert (FOLDER / name).read_text() == text, f"{name} is out of date: run `python -m docs`"


def test_the_readme_shows_the_newest_comparison_with_peers():
    readme = (FOLDER.parent / "README.md").read_text()
    assert peers.BEGIN + peers.summary() + peers.END in readme, "README.md is out of date: run `python -m docs`"


def test_every_link_leads_somewhere(written):
    for name, text in written.items():
        for link in pages.links(text):
            assert ((FOLDER / name).parent / link).exists(), (name, link)


def test_every_metric_is_explained():
    config = agents.Config()
    numbers = {name: np.zeros((1, 1)) for name in METRICS}
    (row,) = run_directory.rows_of_chunk(config, 0, 1, numbers)
    text = (FOLDER / "algorithms.md").read_text().split("## What is measured")[1]
    assert [name for name in row if f"`{name}`" not in text] == []


def test_there_is_a_page_for_everything(written):
    names = {"robots/point.md", "robots/doggo.md", "objects/gremlins.md", "objects/walls.md", "tasks/push.md"}
    assert names < set(written)
    assert (
        "| `PointPush2` | Point | Push | 1 box, 4 hazards, 4 pillars | hazards, pillars | 76 |" in written["README.md"]
    )


def test_throughput_shows_the_newest_row_of_each_measurement(monkeypatch):
    def row(date, benchmark, rate, **facts):
        where = {"device": "cpu", "machine": "x", "cpu_count": 2, "versions": {"jax": "1.2"}, "commit": f"c{rate:.0f}"}
        rates = {f"env_steps_per_s{end}": rate for end in ("", "_min", "_max")}
        return {"task": "PointGoal1", "num_envs": 4, "benchmark": benchmark, "date": date} | where | rates | facts

    rows = [
        row("2026-02-01", "stepping", 2000.0, kernels=70, kernels_in_loops=60),
        row("2026-01-01", "stepping", 1000.0),
        row("2026-01-01", "physics", 4000.0, ratio_to_stepping=2.0),
        row("2026-01-01", "no_auto_reset", 1250.0, ratio_to_stepping=1.25),
        row("2026-01-01", "stepping_on_2", 1900.0, ratio_to_stepping=1.9),
        row("2026-01-01", "training", 800.0),
        row("2026-01-01", "fleet", 720.0, ratio_to_training=0.9),
        row("2026-01-01", "stepping", 5.0, impl="warp"),
        row("2026-03-01", "stepping", 3000.0, xla_flags="--xla_fast"),
    ]
    monkeypatch.setattr(throughput, "results", lambda _: rows)

    page = throughput.page()

    assert "| `PointGoal1` | jax | 4 | 2.0k (2.0k to 2.0k) | 500 | 0.50 | 20.0% |  |" in page
    assert "| `PointGoal1` | jax | 4 |  |  | 70 | 60 |  |  |" in page
    assert "| `PointGoal1` | jax | 4 | 2: 1.90 |" in page
    assert "| `PointGoal1` | jax | 4 | 0.8k | 0.90 |  |" in page
    assert "| `c2000` | 2026-02-01 | PointGoal1 x 4 | 2 cores, x | jax 1.2 |" in page
    assert "| `PointGoal1` | warp | 4 | 0.0k (0.0k to 0.0k) | 1 |" in page
    assert "c1000" not in page
    plain, _, flagged = page.partition("## cpu, `--xla_fast`")
    assert "2.0k (2.0k to 2.0k)" in plain
    assert "3.0k (3.0k to 3.0k)" in flagged


def test_peers_are_those_of_a_tasks_last_run(monkeypatch):
    def row(date, task, benchmark, rate, ratio=1.0, missing=None):
        what = {
            "task": task,
            "benchmark": benchmark,
            "date": date,
            "missing": missing,
            "backend": "cpu",
            "cpu_count": 2,
        }
        if missing:
            return what
        rates = {f"env_steps_per_s{end}": rate for end in ("", "_min", "_max")}
        where = {"device": "cpu", "versions": {"jax": "1.2"}, "commit": f"c{date}", "num_envs": 2}
        ratios = {"ours_to_it": ratio, "ours_to_it_physics": 2 * ratio, "peer_versions": {"numpy": "1.23"}}
        return what | rates | where | ratios | {"physics_steps_per_s": 10 * rate, "physics_timestep_s": 0.002}

    rows = [
        row("2", "PointGoal1", "stepping", 12345.6),
        row("2", "PointGoal1", "safety_gymnasium", 12.3, 1003.7),
        row("2", "PointGoal1", "safety_gymnasium_vector", 0, missing="no wheel"),
        row("3", "PointGoal1", "stepping", 9e9) | {"backend": "gpu"},
        row("1", "PointGoal1", "stepping", 7777.0),
        row("1", "PointGoal1", "safety_gymnasium_vector", 77.0, 101.0),
        row("0", "PointGoal1", "training", 4000.0),
        row("0", "PointGoal1", "omnisafe", 20.0, 200.0),
    ]
    monkeypatch.setattr(peers, "results", lambda _: rows)

    page = peers.page()

    assert "| `PointGoal1` | ours | 2 | 12,300 (12,300 to 12,300) | 123,000 | 2 ms | 1 | 2 |" in page
    assert (
        "| `PointGoal1` | Safety-Gymnasium, one process | 2 | 12.3 (12.3 to 12.3) | 123 | 2 ms | 1,000 | 2,010 |"
        in page
    )
    assert "| `PointGoal1` | Safety-Gymnasium, 2 processes | missing |  |  |  |  |  |" in page
    assert "| `PointGoal1` | OmniSafe, learning | 2 | 20 (20 to 20) | 200 | 2 ms | 200 | 400 |" in page
    assert "| PointGoal1 | `c2` | 2 | 2 cores, cpu | jax 1.2 | numpy 1.23 |" in page
    assert "7,780" not in page
    assert "| PointGoal1 | 12,300 | 12.3 |  |  | 1,000 x |" in peers.summary()
    assert "| PointGoal1, learning | `c0` |" in page
    assert "| TRPO-Lagrangian learning PointGoal1 | 4,000 | 20, OmniSafe's |  |  | 200 x |" in peers.summary()
