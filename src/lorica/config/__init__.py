"""The configuration: schema, presets, environment, and their composition in Hydra's grammar."""
