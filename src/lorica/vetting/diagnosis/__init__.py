"""Why does an adapter misbehave? Hypotheses, evidence with weights, experiments that decide, the next command.

evidence.py     what evidence is, and what it makes of the hypotheses
checks.py       findings as evidence, and the absence of findings; weights.py: the table by code
numeric.py      measured numbers as evidence
experiments.py  the table of experiments; on_files, on_base, on_rows, sweeps, on_answers: how they are carried out
variants.py     changed copies of an adapter; trial.py: asking a model with and without them
context.py      what can be asked about one adapter
diagnose.py     the driver; settle.py: what is left; text.py: for people
"""

from __future__ import annotations

from lorica.vetting.diagnosis.diagnose import Diagnosis, diagnose
from lorica.vetting.diagnosis.inputs import DiagnosisInputs
from lorica.vetting.diagnosis.posterior import Evidence, Hypothesis
from lorica.vetting.diagnosis.report import to_plain, to_report, to_text

__all__ = ["Diagnosis", "DiagnosisInputs", "Evidence", "Hypothesis", "diagnose", "to_plain", "to_report", "to_text"]
