"""The file of a new experiment."""
