"""Members of an ensemble that are no network's adapters: TF-IDF with logistic regression, centroids of embeddings."""
