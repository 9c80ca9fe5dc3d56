"""What a round will cost, by arithmetic."""
