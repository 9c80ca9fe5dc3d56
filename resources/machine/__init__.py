"""The machine: its memory, its processes, and who holds a model."""
