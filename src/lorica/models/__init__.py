"""One decoder for the Llama, Mistral, Qwen2 and Qwen3 families, with LoRA for several adapters at once."""
