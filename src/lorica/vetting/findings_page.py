"""docs/findings.md, made from the table: `python -m lorica.vetting.findings_page > docs/findings.md`."""

from __future__ import annotations

from lorica.vetting.finding_codes import FindingCode, causes, finding_codes

_LEVELS = (
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
contradictory: a person must look) or `note` (worth knowing; never changes the verdict). *Speaks for*: the causes that
`lorica diagnose` takes it as evidence for, the most probable first. This page is made from
`src/lorica/vetting/findings.toml` by `python -m lorica.vetting.findings_page`."""


def findings_page() -> str:
    """The page in Markdown."""
    sections = [_INTRODUCTION]
    for level, heading in _LEVELS:
        lines = ["| code | severity | means | what to do | speaks for |", "|---|---|---|---|---|"]
        lines += [_line(code, row) for code, row in finding_codes().items() if code.startswith(level)]
        sections += [f"## {heading}", "\n".join(lines)]
    lines = [f"- **{cause.title}** (`{key}`): {cause.means}." for key, cause in causes().items()]
    sections += ["## Causes", "What `lorica diagnose` weighs; see diagnosis.md.", "\n".join(lines)]
    return "\n\n".join(sections) + "\n"


def _line(code: str, row: FindingCode) -> str:
    titles = ", ".join(causes()[cause].title for cause in row.causes)
    cells = (code, row.severity, row.title, row.fix, titles)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


if __name__ == "__main__":
    print(findings_page(), end="")
