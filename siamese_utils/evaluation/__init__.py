"""Every number of the evaluation protocol, from embeddings, with 95% confidence intervals.

All functions take embeddings ``z``, float32 (M, D) with rows of unit length (so the dot product of two rows
is their cosine similarity, and ordering by it is ordering by Euclidean distance), and ``labels``, int64 (M,).
NumPy arrays, lists, and other floating-point and whole-number types are converted; all else is a ShapeError.
Results are in percent.

What an interval covers: only the sampling named in the docstring (episodes, supports, pairs, triplets or
images). All are conditional on the trained network and on the draw of the classes; how much another training
seed or other classes would change a number is seen only by repeating the training.

Where several classes are equally similar to a query (a collapsed network, duplicate images), the prediction
counts as a fair random choice among them, so a network that maps everything to one point scores exactly
chance. Triplets alone count otherwise: one is right only where the positive is strictly nearer, so such a
network scores 0. Where a single class has to be named (confusions, recalls by class, predictions), it is the
first of them.
"""
