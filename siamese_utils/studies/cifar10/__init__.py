"""Do two towers classify CIFAR-10 better than one, and who tells pairs of images apart?"""
