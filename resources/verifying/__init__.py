"""What verifies completions with processes that can be killed: answers, programs in a sandbox, a person's function."""
