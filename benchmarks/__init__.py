"""Measurements, one file for each claim. `python -m benchmarks.<name>` prints one JSON object as its last line."""
