"""One's own images: what a user of the package may expect of them, measured on photographs."""
