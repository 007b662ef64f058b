"""The search for the recipe (notebook 03b)."""
