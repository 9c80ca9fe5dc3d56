"""Which texts are alike: word by word, by n-grams, and by embedding."""
