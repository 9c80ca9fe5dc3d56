"""A round at work: what is made in it, from what, and how. Plain Python, without Dagster."""
