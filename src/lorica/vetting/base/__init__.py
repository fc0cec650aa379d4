"""Does an adapter belong to a base model: by its files, and by its directions (L3)?"""
