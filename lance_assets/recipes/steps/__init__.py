"""The steps that recipes share: proposing, reviewing, judging pairs, teaching, and the sets a round trains on."""
