"""Ways in which an adapter goes wrong, each built from a healthy trained adapter by a seed; and healthy variants.

`bench/faults.py` runs them. No module here reads or imports a check: what a kind does follows from what happens to
adapters in the field. The kinds of `field_files`, `field_numbers` and `field_base` were written and committed before
their author had read any check, any code table or any hypothesis of the diagnosis; they are the "unseen" ones. Those
of the `wild_*` modules are a second round of unseen kinds, by another author on the same terms.
"""
