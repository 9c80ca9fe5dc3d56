"""Runs at work: what holds their claims, and what is done about those whose process is gone."""
