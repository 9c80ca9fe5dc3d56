"""How reviews, verdicts and answers are read, and what they say of the reviewer."""
