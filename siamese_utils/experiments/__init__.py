"""How any study is run, stored, checked and drawn."""
