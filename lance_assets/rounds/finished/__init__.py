"""What finished rounds say when they are read again: the leaderboard, the tables of a run, the story of a row."""
