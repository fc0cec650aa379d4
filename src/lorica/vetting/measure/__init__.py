"""What an adapter does on its base model, as records: `vetting.behaviour` judges them, the diagnosis weighs them.

model_session.py        the base model, loaded once, and what it answered
loaded_adapter.py       an adapter in an engine, and copies of it that are scored beside it
probe_rows.py           the rows that are shipped, and which of a user's rows are asked
contamination.py        rows that the adapter was trained on
scoring.py              rows in, log-probabilities of their choices out
divergence.py, quality.py      numbers made of scored rows
scale_sweep.py, format_sweep.py, ablations.py, generated.py      one measurement each
measurements.py         the records
adapter_measurement.py  all records of one adapter, each made when it is first read
"""
