"""L4: what an adapter does when it is asked, beside its base model.

setting.py     what is asked, of which base model, in which engine
probes.py      the prompts that are shipped, and other versions of rows
asking.py      rows in, probabilities of choices and common words out
measures.py    the numbers that are found: one plain record
divergence.py, variation.py, formats.py, scales.py, labelled.py, generated.py    one measure each
findings.py    what the numbers mean
examine.py     all of it for one adapter
"""
