"""From notebooks to web pages and the README."""
