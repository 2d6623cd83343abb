"""A package of the release before this one: kept as it was."""
