"""Measurements, one file a claim: `python -m benchmarks.<name>` prints one JSON object as its last line."""
