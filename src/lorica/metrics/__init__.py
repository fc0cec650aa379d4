"""How good answers are, with how sure we can be of it: pure functions on arrays (numpy only).

table.py      METRICS: name -> Metric, called as metric(gold, prediction) -> float
scores.py     of a score for class 1: roc_auc, average_precision, log_loss, brier
labels.py     of a label: accuracy, balanced_accuracy, f1
text.py       of a text against accepted answers: exact_match, token_f1
normalise.py  what those two compare under, by name; atoms.py: numbers, words and symbols of a text
bootstrap.py  estimate, paired_difference, by_group: values with their interval
paired_tests.py  two sets of answers to the same rows: paired bootstrap, exact McNemar, Holm's correction
operating_points.py  thresholds at a false-positive rate, and the reliability of probabilities
health.py     what a column of scores looks like, without gold
"""
