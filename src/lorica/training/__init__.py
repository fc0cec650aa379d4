"""LoRA fine-tuning on the one decoder, with checkpoints and log; and the TF-IDF baseline beside it."""
