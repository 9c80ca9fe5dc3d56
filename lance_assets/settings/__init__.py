"""What an experiment's file may say, and how its mistakes are reported."""
