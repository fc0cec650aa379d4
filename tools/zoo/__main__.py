"""python -m tools.zoo [--threads N]: build what is missing."""

from __future__ import annotations

import argparse

from tools.zoo import places
from tools.zoo.build import build


def main() -> None:
    """Parse the command line and build."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.zoo", description="Build the zoo of tiny bases and adapters."
    )
    parser.add_argument("--threads", type=int, default=1)
    build(parser.parse_args().threads)
    known, made = places.bases(), places.adapters()
    print(
        f"bench=zoo root={places.root()} bases={len(known)} adapters={len(made)} "
        f"lowest_auc={min(one.auc for one in made):.4f}"
    )


if __name__ == "__main__":
    main()
