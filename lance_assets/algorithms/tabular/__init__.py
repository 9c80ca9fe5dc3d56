"""Rows of a table: reading them from text, curating them by a boosted model, and what they teach other models."""
