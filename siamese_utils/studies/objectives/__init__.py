"""Losses, mining and collapse (notebook 03)."""
