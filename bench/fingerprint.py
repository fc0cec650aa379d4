"""Does an adapter's fingerprint always contain its true base, and how many others?

    python bench/fingerprint.py [--table ../shared/data/base_models/architectures.csv]

For every model of a table of real architectures and each of four sets of targets, the header of an adapter is made from
the shapes that the table states (ours where it states none), and matched. Families with fused or other names use their
own equivalents; sets that a family has no linear layers for (experts that are one tensor, state-space models) are left
out and counted. The last line is `key=value`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).resolve().parents[1])]

from tools.bases.__main__ import DEFAULT_CHECK, differences  # noqa: E402
from tools.fingerprint_cases import SETS, as_stated, identify, rows  # noqa: E402

from lorica.adapters.bases import all_bases  # noqa: E402
from lorica.adapters.fingerprint import BaseMatch  # noqa: E402


def main() -> None:
    """Make, match, count, print. Exits with 1 when a true base is missing anywhere."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=DEFAULT_CHECK)
    arguments = parser.parse_args()
    count = dict.fromkeys(("rows", "without_shape", "filled", "corrected", "tried", "contained", "inapplicable"), 0)
    found: dict[tuple[str, bool], list[BaseMatch]] = {(name, config): [] for name in SETS for config in (True, False)}
    for line, ours in rows(arguments.table):
        count["rows"] += 1
        if ours is None:
            count["without_shape"] += 1
            print(f"no shape is known for {line['source']}: {line['model']}")
            continue
        base, filled = as_stated(line, ours)
        count["filled"] += filled
        if differences(dict(line), ours):
            count["corrected"] += 1  # tools/bases/disputes.csv says why
            base = ours
        for name in SETS:
            said = [identify(base, name, with_config=config) for config in (True, False)]
            if said[0] is None or said[1] is None:
                count["inapplicable"] += 1
                continue
            for each, config in zip(said, (True, False), strict=True):
                assert each is not None
                found[name, config].append(each)
            count["tried"] += 1
            contained = all(each is not None and ours.name in each.candidates for each in said)
            count["contained"] += contained
            if not contained:
                print(f"MISSING {ours.name} from {name}: {said[0].text}")
    for (name, config), matches in found.items():
        shapes, models = ([each.shapes for each in matches], [len(each.candidates) for each in matches])
        print(
            f"{name:13} {'with config' if config else 'tensors only'}: distinct shapes median "
            f"{statistics.median(shapes):g}, largest {max(shapes)}; models median {statistics.median(models):g}, "
            f"largest {max(models)}; one shape alone in {sum(n == 1 for n in shapes)} of {len(shapes)}"
        )
    every = [each for (_, config), matches in found.items() for each in matches if config]
    medians = " ".join(
        f"shapes_{key}={statistics.median(each.shapes for each in found[name, True]):g}"
        for key, name in zip(("qv", "qkvo", "mlp", "all"), SETS, strict=True)
    )
    print(
        f"contained_percent={100 * count['contained'] / max(1, count['tried']):.2f} "
        + " ".join(f"{key}={value}" for key, value in count.items())
        + f" table={len(all_bases())} shapes_median={statistics.median(each.shapes for each in every):g} {medians} "
        f"models_median={statistics.median(len(each.candidates) for each in every):g}"
    )
    raise SystemExit(count["contained"] != count["tried"])


if __name__ == "__main__":
    main()
