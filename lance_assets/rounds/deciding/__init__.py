"""People decide what is trained on: which rows wait, what was decided of them, and what follows from it."""
