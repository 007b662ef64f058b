"""Speed of this project against its peers; run a script as ``python -m benchmarks.NAME``."""
