"""Trackers of experiments: trackio, W&B and MLflow behind one function each."""
