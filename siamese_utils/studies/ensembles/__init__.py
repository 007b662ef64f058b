"""Several networks as one, and the standard benchmark CIFAR-FS."""
