"""Errors that a user can act on."""


class RecipeError(ValueError):
    """A run that cannot be composed; the message says what was found and what to do."""
