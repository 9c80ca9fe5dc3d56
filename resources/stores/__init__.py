"""Where rounds are kept: tables, checkpoints, and the history in LanceDB."""
