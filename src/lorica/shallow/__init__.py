"""Shallow models: TF-IDF with logistic regression, centroids of embeddings."""
