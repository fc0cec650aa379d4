"""L4: how right is an adapter on labelled rows, held against the figures that its passport states?"""

from __future__ import annotations

from lorica.adapters.raw_adapter import RawAdapter
from lorica.vetting.findings import Finding, finding
from lorica.vetting.measure.measurements import ENOUGH, Behaviour


def check_figures(specimen: RawAdapter, behaviour: Behaviour) -> list[Finding]:
    """The rows' metric against the passport's. Nothing without a readable passport that has it for this task, or with
    few labelled rows. Clearly less: the two intervals do not meet. Rows are drawn evenly from the labels, so accuracies
    of a ranking are not compared: they go with the share of each label."""
    labelled, passport = behaviour.labelled, specimen.passport
    if labelled is None or labelled.n < ENOUGH or passport is None:
        return []
    stated = (passport.metrics.adapter or {}) if passport.prompt.task == behaviour.task else {}
    own, figure = labelled.adapter, stated.get(labelled.metric)
    if own.high is None or figure is None or figure.value is None or figure.low is None or figure.high is None:
        return []
    interval = f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
    sentence = f"{labelled.metric} {own} on {own.n} rows, stated: {interval}"
    facts = {"metric": labelled.metric, "value": own.value, "stated": figure.value}
    return [finding("L443" if own.high < figure.low else "L444", sentence, facts=facts)]
