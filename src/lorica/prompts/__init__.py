"""Messages to token ids: one function for training, inference and scoring.

`encoder.Encoder` is the entrance; `folder` reads what a model's folder says, `template` renders chat
templates, `vocabulary` wraps a tokenizer so that user text never becomes a control token, `truncate` cuts
over-long texts by a declared policy.
"""
