"""What trains a checkpoint: TRL and PEFT, in a process of its own."""
