"""docs/findings.md, made from the table: `python -m lorica.vetting.codes.document > docs/findings.md`."""

from __future__ import annotations

from lorica.vetting.causes import CAUSES
from lorica.vetting.codes import CODES, Code

_ROOMS = (
    ("L0", "L0: safe to read"),
    ("L1", "L1: structure and claims"),
    ("L2", "L2: numbers"),
    ("L3", "L3: base model and passport"),
    ("L4", "L4: behaviour and scores"),
)
_INTRODUCTION = """\
# Findings

Every finding of `lorica check` has a code that never changes its meaning. Severity, unless the check knows better:
`reject` (using the adapter as it is gives wrong results, or it cannot be used, or is dangerous), `warn` (suspicious or
contradictory: a person must look) or `note` (worth knowing; never changes the verdict). This page is made by
`python -m lorica.vetting.codes.document`."""


def document() -> str:
    """The page."""
    parts = [_INTRODUCTION]
    for start, heading in _ROOMS:
        codes = sorted((code, known) for code, known in CODES.items() if code.startswith(start))
        lines = ["| code | severity | means | what to do | speaks for |", "|---|---|---|---|---|"]
        parts += [f"## {heading}", "\n".join([*lines, *(_line(code, known) for code, known in codes)])]
    causes = [f"- **{cause.title}** (`{key}`): {cause.means}." for key, cause in CAUSES.items()]
    parts += ["## Causes", "What `lorica diagnose` weighs; see diagnosis.md.", "\n".join(causes)]
    return "\n\n".join(parts) + "\n"


def _line(code: str, known: Code) -> str:
    causes = ", ".join(CAUSES[each].title for each in known.causes)
    cells = (code, known.severity, known.title, known.fix, causes)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(document(), end="")
