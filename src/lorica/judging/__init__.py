"""Judging answers by a model: rubrics, the judges that apply them, a journal of verdicts, and how far a judge agrees
with itself and with others."""
