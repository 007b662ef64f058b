"""How a network learns: configuration, losses, augmentation, optimisers, the loop."""
