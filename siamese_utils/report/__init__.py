"""From notebooks to web pages and the README."""

PROFILES = ("smoke", "report", "full", "anew")
RETRAINING = ("full", "anew")
"""Profiles in which a cell may take hours, and in which nothing that was executed before counts."""
IN_PLACE = "SIAMESE_IN_PLACE"
"""Environment variable by which a notebook knows that its outputs, figures too, take the place of those in git."""
