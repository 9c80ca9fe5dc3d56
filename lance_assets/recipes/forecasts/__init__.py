"""How many rows and tokens the rounds of each recipe ask and train on, a module for each kind of round."""
