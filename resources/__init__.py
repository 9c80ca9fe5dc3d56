"""Adapters to the outside: tables, checkpoints, seed files, the embedder, the vector store, and what runs models."""
