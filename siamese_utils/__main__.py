"""``python -m siamese_utils``."""

from siamese_utils.cli import main

main()
