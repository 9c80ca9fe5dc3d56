"""What rounds take over from earlier ones, what may be built on, and what a new name does to the data."""
