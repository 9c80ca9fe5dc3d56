"""Which texts are like each other: of a round, of the rounds before it, and of people."""
