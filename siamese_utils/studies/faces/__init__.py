"""Do two photographs show the same person? (notebook 07)"""
