"""From notebooks to web pages and the README."""

IN_PLACE = "SIAMESE_IN_PLACE"
"""Environment variable by which a notebook knows that its outputs, figures too, take the place of those in git."""
