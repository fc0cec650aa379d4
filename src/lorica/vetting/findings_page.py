"""docs/findings.md, made from the table: `python -m lorica.vetting.findings_page > docs/findings.md`."""

from __future__ import annotations

from lorica.vetting.findings import FindingCode, causes, finding_codes

_LEVELS = (
    ("L0", "L0: safe to read"),
    ("L1", "L1: structure and claims"),
    ("L2", "L2: numbers"),
    ("L3", "L3: base model and passport"),
    ("L4", "L4: behaviour and scores"),
)
_INTRODUCTION = """\
# Findings

This page explains the code of each finding of `lorica check`. A code never changes its meaning. Its severity is one of
`reject` (using the adapter as it is gives wrong results, is dangerous or impossible), `warn` (suspicious or
contradictory: a person must look) and `note` (worth knowing; never changes the verdict); a check may set another
severity where it knows more. *Speaks for* lists the causes for which `lorica diagnose` counts the finding as evidence,
the most probable first.

<!-- Generated from vetting/findings.toml by: python -m lorica.vetting.findings_page > docs/findings.md -->"""


def findings_page() -> str:
    """The page in Markdown."""
    sections = [_INTRODUCTION]
    for level_prefix, heading in _LEVELS:
        page_lines = ["| code | severity | means | what to do | speaks for |", "|---|---|---|---|---|"]
        page_lines += [_line(code, row) for code, row in finding_codes().items() if code.startswith(level_prefix)]
        sections += [f"## {heading}", "\n".join(page_lines)]
    page_lines = [f"- **{cause.title}** (`{cause_name}`): {cause.means}." for cause_name, cause in causes().items()]
    sections += ["## Causes", "The causes that [`lorica diagnose`](diagnosis.md) weighs:", "\n".join(page_lines)]
    return "\n\n".join(sections) + "\n"


def _line(finding_code: str, code_row: FindingCode) -> str:
    titles = ", ".join(causes()[cause_name].title for cause_name in code_row.causes)
    table_cells = (finding_code, code_row.severity, code_row.title, code_row.fix, titles)
    return "| " + " | ".join(table_cell.replace("|", "\\|") for table_cell in table_cells) + " |"


if __name__ == "__main__":
    print(findings_page(), end="")
