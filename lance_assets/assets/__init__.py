"""The only room that imports Dagster: assets and checks built from the table of nouns, and what runs the loop."""
