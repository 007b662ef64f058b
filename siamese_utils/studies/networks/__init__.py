"""Encoders side by side (notebook 02)."""
