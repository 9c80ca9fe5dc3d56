"""The evaluation by a judge on open-ended prompts."""
