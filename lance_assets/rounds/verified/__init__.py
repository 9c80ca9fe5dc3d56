"""A round's rows as a verifier judges them: with which gold answers, mixed with reviews, and how far the two agree."""
