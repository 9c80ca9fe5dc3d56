"""Imports transformers and its trainer as `lean_imports` does; a program imports it at its top, for that alone.

transformers 5.19 imports scipy.stats and sklearn with its trainer too, for scores of GLUE.
"""

from resources.models.lean_imports import import_language_models, without_unneeded

import_language_models()
with without_unneeded():
    import transformers.data.metrics  # noqa: F401
