"""Images as one uint8 tensor: where they lie, how they are read, split into classes and sampled."""
