"""How recognition of unseen classes grows with the classes learned (notebooks 04 and 05)."""
