"""Why does an adapter misbehave? Hypotheses, evidence for and against them, experiments, the next command.

posterior.py            what evidence is, and the ranking of causes that follows from it
finding_likelihoods.py  findings as evidence, by the table `findings.toml`, and the absence of findings
likelihoods.py          measured numbers as evidence
experiments.py          the table of experiments; on_files, on_base, on_rows, sweeps carry them out
inputs.py               what can be asked about one adapter
diagnose.py             the driver; next_steps.py: what is still open; report.py: for people and programs
"""

from __future__ import annotations

from lorica.vetting.diagnosis.diagnose import Diagnosis, diagnose
from lorica.vetting.diagnosis.inputs import DiagnosisInputs
from lorica.vetting.diagnosis.posterior import Evidence, Hypothesis
from lorica.vetting.diagnosis.report import to_plain, to_report, to_text

__all__ = ["Diagnosis", "DiagnosisInputs", "Evidence", "Hypothesis", "diagnose", "to_plain", "to_report", "to_text"]
