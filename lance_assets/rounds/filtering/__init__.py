"""What filters look up beside the rows: where seeds are from, and models that classify or score."""
