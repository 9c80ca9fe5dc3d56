"""Tables and pictures for a person, from plain tables."""
