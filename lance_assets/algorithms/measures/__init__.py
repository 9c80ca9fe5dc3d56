"""What is measured of rounds: scores with intervals, diversity, progress, win rates."""
