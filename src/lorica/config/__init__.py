"""The configuration: schema, presets, environment, and their composition in Hydra's grammar.

schema.py    every key with its type, range, default and meaning; imports nothing heavy
compose.py   `compose(overrides, environ=...)` -> the resolved configuration and where each value came from
render.py    the resolved configuration as text (`lorica config`)
document.py  docs/configuration.md, generated from the schema
"""
