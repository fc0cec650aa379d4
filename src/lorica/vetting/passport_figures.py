"""L4: how right is an adapter on labelled rows, held against the figures that its passport states?"""

from __future__ import annotations

from lorica.adapters.passport import PASSPORT_NAME, to_passport
from lorica.adapters.raw_adapter import RawAdapter
from lorica.errors import AdapterError
from lorica.vetting.findings import Finding, finding
from lorica.vetting.measure.measurements import ENOUGH, Behaviour, Interval


def check_figures(specimen: RawAdapter, behaviour: Behaviour) -> list[Finding]:
    """The rows' metric, and the accuracy, against the passport's. Nothing without a readable passport that has them for
    this task, or with few labelled rows. Clearly less: the two intervals do not meet."""
    labelled = behaviour.labelled
    if labelled is None or labelled.n < ENOUGH:
        return []
    try:
        passport = to_passport(specimen.documents.get(PASSPORT_NAME))
    except AdapterError:
        return []  # check_passport says so
    stated = (passport.metrics.adapter or {}) if passport.prompt.task == behaviour.task else {}
    measured: dict[str, Interval | None] = {"accuracy": labelled.accuracy_interval, labelled.metric: labelled.adapter}
    sentences, fallen = [], False
    facts: dict[str, float | None] = {}
    for metric, own in measured.items():
        figure = stated.get(metric)
        if own is None or figure is None or figure.value is None or figure.low is None or figure.high is None:
            continue
        interval = f"{figure.value:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
        sentences.append(f"{metric} {own} on {own.n} rows, stated: {interval}")
        facts |= {metric: own.value, f"stated_{metric}": figure.value}
        fallen = fallen or (own.high is not None and own.high < figure.low)
    return [finding("L443" if fallen else "L444", "; ".join(sentences), facts=facts)] if sentences else []
