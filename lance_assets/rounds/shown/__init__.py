"""What a person is shown of a noun beside its figures: a sentence, a sample of rows, and how long a round took."""
