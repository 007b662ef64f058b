"""What is in CIFAR-100 (notebook 01)."""
