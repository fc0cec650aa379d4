"""The gain that `lorica adapt` may expect: each rule of the training table left out in its turn, with a control."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from lorica.adaptation.expected_gain import ExpectedGain, LeftOutRule, expected_gain, shuffled_labels
from lorica.adaptation.harvest import LabelledText, TextLabels, balanced, by_stratum, training_rows
from lorica.commands.adapt_stages import StageRunner
from lorica.commands.arguments import inform
from lorica.config.schema import Config
from lorica.names import count_of
from lorica.records import Row

_UNADAPTED, _ADAPTED, _SHUFFLED = "unadapted", "adapted", "shuffled"
_FEWEST_ROWS = 10  # of a rule, of both labels, below which its ROC-AUC says nothing


@dataclass(frozen=True)
class _HeldOutRule:
    """A rule to leave out: its own rows to judge on, its examples, and the labelled rows of all other rules."""

    stratum: str
    judged: list[Row]
    examples: tuple[LabelledText, ...]
    others: list[LabelledText]


def estimate_gain(
    config: Config, texts: TextLabels, runner: StageRunner, labelled: Sequence[LabelledText], unseen: int
) -> tuple[ExpectedGain | None, str]:
    """The expected gain on `unseen` rules; or None and why there is none. Nothing of the input is used."""
    held_out_rules, problem = _plan(config, texts, labelled)
    if not held_out_rules:
        return None, problem
    if problem:
        inform(f"the estimate: {problem}")
    measured: list[LeftOutRule] = []
    trainings = 2 + config.adapt.estimate_shuffles
    inform(
        f"the estimate takes {trainings} trainings for each of {count_of(len(held_out_rules), 'rule')} "
        "(adapt.estimate=off: none)"
    )
    for number, rule in enumerate(held_out_rules, 1):
        inform(f"the estimate, rule {number} of {len(held_out_rules)}: {rule.stratum}")
        measured.append(_measure(config, runner, rule, f"estimate/rule-{number}"))
    return expected_gain(measured, unseen), ""


def _plan(config: Config, texts: TextLabels, labelled: Sequence[LabelledText]) -> tuple[list[_HeldOutRule], str]:
    groups = by_stratum([item.row for item in labelled], texts.stratum)
    if len(groups) < 2:
        return [], f"train has {count_of(len(groups), 'rule')}, and one that is left out needs another to train on"
    held_out_rules, unusable = list[_HeldOutRule](), list[str]()
    for stratum, rows in groups.items():
        others = [item for item in labelled if item.stratum != stratum]
        examples = texts.harvest(rows, others).examples
        own_digests = {item.digest for item in examples}
        judged = [row for row in rows if texts.digest(row) not in own_digests]
        label_counts = [sum(row.gold == label for row in judged) for label in (0, 1)]
        if not examples or min(label_counts) < _FEWEST_ROWS:
            unusable.append(stratum)
            continue
        held_out_rules.append(_HeldOutRule(stratum, judged, examples, others))
    chosen = held_out_rules[: config.adapt.estimate_rules]
    problems = []
    if unusable:
        rules_text = count_of(len(unusable), "rule has", "rules have")
        problems.append(f"{rules_text} no examples, or fewer than {_FEWEST_ROWS} other rows of a label")
    if len(chosen) < len(held_out_rules):
        problems.append(f"{len(chosen)} of {len(held_out_rules)} rules are left out (adapt.estimate_rules)")
    return chosen, "; ".join(problems)


def _measure(config: Config, runner: StageRunner, rule: _HeldOutRule, prefix: str) -> LeftOutRule:
    own_rows, copies = [item.row for item in rule.others], config.adapt.repeat

    def with_examples(examples: Sequence[LabelledText]) -> list[Row]:
        return own_rows + training_rows(balanced(examples, copies))

    rows_of = {f"{prefix}/{_UNADAPTED}": own_rows, f"{prefix}/{_ADAPTED}": with_examples(rule.examples)}
    controls = {
        f"{prefix}/{_SHUFFLED}-{number}": with_examples(
            shuffled_labels(rule.examples, f"{config.training.seed}/{prefix}/{number}")
        )
        for number in range(1, config.adapt.estimate_shuffles + 1)
    }
    scores_of = runner.train_and_score(rows_of | controls, rule.judged, may_collapse=controls)
    unadapted, adapted, *shuffled_scores = (tuple(scores[row.id] for row in rule.judged) for scores in scores_of)
    labels = tuple(int(row.gold == 1) for row in rule.judged)
    return LeftOutRule(rule.stratum, labels, unadapted, adapted, tuple(shuffled_scores))
