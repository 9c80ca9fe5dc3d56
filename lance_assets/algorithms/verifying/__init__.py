"""Verdicts by rule on completions: gold answers, constraints, and what of a completion is a program and its tests."""
