"""The rows of `rules`: a post under a rule, and what such a row becomes with its examples exchanged, or a part less."""

from __future__ import annotations

import msgspec

from lorica.records import Row


class RulesCase(msgspec.Struct, frozen=True):
    """A post and the rule it may break. Examples are posts that break the rule, and posts that do not."""

    body: str
    rule: str
    subreddit: str = ""
    breaking: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()


def with_swapped_examples(row: Row) -> Row | None:
    """The row with its examples exchanged; None unless it has some of both kinds."""
    rules_case = row.case
    if not isinstance(rules_case, RulesCase) or not rules_case.breaking or not rules_case.allowed:
        return None
    swapped = msgspec.structs.replace(rules_case, breaking=rules_case.allowed, allowed=rules_case.breaking)
    return msgspec.structs.replace(row, case=swapped)


def with_values(
    row: Row,
    *,
    body: str | None = None,
    rule: str | None = None,
    breaking: tuple[str, ...] | None = None,
    allowed: tuple[str, ...] | None = None,
) -> Row | None:
    """The row with these in place of its own; None where that changes nothing, and for a chat."""
    if not isinstance(row.case, RulesCase):
        return None
    values = {"body": body, "rule": rule, "breaking": breaking, "allowed": allowed}
    given_values = {name: value for name, value in values.items() if value is not None}
    changed = msgspec.structs.replace(row, case=msgspec.structs.replace(row.case, **given_values))
    return None if changed == row else changed


def with_exchanged_texts(row: Row) -> Row | None:
    """The row with its rule for a post and its post for a rule; None for a chat."""
    return with_values(row, body=row.case.rule, rule=row.case.body) if isinstance(row.case, RulesCase) else None


def examples_as_rows(row: Row) -> tuple[Row, ...]:
    """Each example as a post with its label. It is no example of itself: a prompt would tell its label."""
    rules_case = row.case
    if not isinstance(rules_case, RulesCase):
        return ()
    labelled = [(text, 1) for text in rules_case.breaking] + [(text, 0) for text in rules_case.allowed]
    return tuple(
        msgspec.structs.replace(
            row,
            id=f"{row.id}/example-{number}",
            gold=label,
            case=msgspec.structs.replace(
                rules_case,
                body=text,
                breaking=tuple(example for example in rules_case.breaking if example != text),
                allowed=tuple(example for example in rules_case.allowed if example != text),
            ),
        )
        for number, (text, label) in enumerate(labelled, 1)
    )
