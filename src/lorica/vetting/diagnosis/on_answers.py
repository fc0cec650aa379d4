"""Experiments on answers that exist already: fall-backs, cut-off texts, constants, order against gold."""

from __future__ import annotations

from lorica.vetting.diagnosis.finding_likelihoods import from_findings
from lorica.vetting.diagnosis.inputs import Context
from lorica.vetting.diagnosis.posterior import Evidence, outcome


def judge_answers(context: Context) -> list[Evidence]:
    """The file given with --answers: a result file of Lorica's, or any table with a column of scores.

    Raises DataError where the file cannot be read.
    """
    from lorica.vetting.score_columns import check_scores

    answers_path = context.inputs.answers
    if answers_path is None:
        return []
    gold_labels = {row.id: row.gold for row in context.inputs.rows if isinstance(row.gold, int) and row.gold in (0, 1)}
    health, findings = check_scores(answers_path, gold=gold_labels or None)
    context.add(findings)
    evidence = from_findings(findings)
    if not any(weight > 0 for evidence_item in evidence for weight in evidence_item.weights.values()):
        sentence = (
            f"the {health.n} scores of {answers_path.name} are healthy: {health.unique} distinct, "
            f"deviation {health.std:.2g}"
        )
        weights = {"parser_fallbacks": -5.0, "generation_settings": -4.0, "ignores_input": -3.0, "hard_labels": -2.0}
        evidence.append(outcome("answers", sentence, "answers", weights))
    elif any(finding.severity != "note" and finding.code != "L469" for finding in findings):
        # Scores at chance are what a hard task gives. Else, whatever the adapter is worth: these answers were doubted,
        # and rightly.
        weights = {"healthy": -5.0, "hard_task": -4.0}
        sentence = f"the scores of {answers_path.name} are not healthy, whatever the adapter is worth"
        evidence.append(outcome("answers", sentence, "answers", weights))
    return evidence
