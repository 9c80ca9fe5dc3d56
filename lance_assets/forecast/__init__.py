"""Plan what a run of rounds will take before it starts: `lance plan`."""
