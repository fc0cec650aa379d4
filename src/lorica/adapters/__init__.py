"""All that is true of a LoRA adapter on disk, without torch: header, names, config, folder, registry."""
