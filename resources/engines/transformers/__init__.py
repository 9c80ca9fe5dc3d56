"""The engine that runs a model by transformers in this process."""
