"""Encoders of drawn symbols (notebook 08)."""
