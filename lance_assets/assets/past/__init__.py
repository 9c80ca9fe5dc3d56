"""When the past changes: what lineage begins with, redoing rounds, and what the instance remembers of the disk."""
