"""Inference on a CPU: the decoder, its layers and linear layers, in the forms that multiply fastest there."""
