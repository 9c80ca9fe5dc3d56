"""Where the steps of rounds run: on this machine, on Ray, under Slurm or on Kubernetes."""
