"""What reads a person's files: seeds and texts."""
