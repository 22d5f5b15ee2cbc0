"""The pages are what the code says."""

import pathlib

import pytest

from docs import pages, throughput

FOLDER = pathlib.Path(pages.__file__).parent


@pytest.fixture(scope="module")
def written():
    return pages.pages()


def test_committed_pages_are_up_to_date(written):
    for name, text in written.items():
        assert (FOLDER / name).read_text() == text, f"{name} is out of date: run `python -m docs`"


def test_every_link_leads_somewhere(written):
    for name, text in written.items():
        for link in pages.links(text):
            assert ((FOLDER / name).parent / link).exists(), (name, link)


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
