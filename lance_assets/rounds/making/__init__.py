"""What makes the nouns of a round: `make_<noun>`, `report_<noun>` and a function for each check."""
