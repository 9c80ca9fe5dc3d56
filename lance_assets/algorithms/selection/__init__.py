"""Which rows are taken: pairs, pool items, seeds, lessons."""
