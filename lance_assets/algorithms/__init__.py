"""Pure algorithms of the methods: Python, numpy, polars and rapidfuzz, without Dagster, torch or any model."""
