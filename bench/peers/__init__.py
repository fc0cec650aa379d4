"""The engines that `bench/engine.py` compares, each in a process of its own that speaks JSON over stdin and stdout."""
