"""The experiments: one folder each with a `defs.yaml`, and the seeds it ships with."""
