"""Losses, mining and collapse (notebooks 03 and 03a)."""
