"""What a person may get wrong in an address; each becomes a page that says what there is."""


class BadQueryError(ValueError):
    """An address names a column, a number or a choice that there is not; the message says which and what there is."""


class NotThereError(ValueError):
    """An address names an experiment, a round, a table or a row that there is not."""
