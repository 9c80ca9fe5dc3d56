"""The engine that asks any OpenAI-compatible server."""
