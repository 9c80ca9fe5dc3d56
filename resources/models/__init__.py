"""Models on disk: folders, shapes, adapters, and the embedder."""
