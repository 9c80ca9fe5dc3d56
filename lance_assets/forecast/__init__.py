"""What a run of rounds will take, before it starts: `python -m lance_assets.forecast`."""
