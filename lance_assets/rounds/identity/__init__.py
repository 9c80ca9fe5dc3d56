"""What the content of an asset depends on beside its inputs: code, settings, templates, files, models and libraries."""
