"""Writes the pages from the code that they are about and from what benchmarks have measured, and their pictures.

    python -m docs              # text, the README's table of peers, and plots of what was measured
    python -m docs --pictures   # also the pictures of robots, objects and tasks, which takes minutes

A test compares the committed text with what is written here, so it cannot drift.
"""

import dataclasses
import sys
from pathlib import Path

import tyro

from docs import pages, peers, pictures


@dataclasses.dataclass(frozen=True)
class Args:
    """What to write."""

    pictures: bool = False
    """Render robots, objects and tasks anew."""


def main() -> int:
    """Exit status: 0."""
    args = tyro.cli(Args, prog="python -m docs", description=__doc__)
    folder = Path(__file__).parent
    for name, text in pages.pages().items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    peers.write_summary(folder.parent / "README.md")
    pictures.plot(folder / "pictures")
    if args.pictures:
        pictures.render(folder / "pictures")
    return 0


if __name__ == "__main__":
    sys.exit(main())
