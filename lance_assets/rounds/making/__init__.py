"""What makes each noun of a round: a module a noun, with `make`, `report` and the functions of its checks."""
