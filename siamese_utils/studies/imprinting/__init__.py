"""Classes added to a trained network from a few shots (notebook 06)."""
