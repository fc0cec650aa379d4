"""GGUF files as base models: header, blocks, config and tokenizer, without torch and without ggml's own package."""
