"""The command `lance`: everything a person does from the command line."""
