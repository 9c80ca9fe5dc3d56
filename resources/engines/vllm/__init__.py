"""The engine that runs a model by vLLM in processes of its own."""
