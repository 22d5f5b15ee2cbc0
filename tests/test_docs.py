"""The pages are what the code says."""

import pathlib

import pytest

from docs import pages

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
