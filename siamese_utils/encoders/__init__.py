"""What a trained network is, and its use: encoders, checkpoints, weights from elsewhere, your own images."""

from siamese_utils.encoders.encoder import Encoder, Ensemble

__all__ = ["Encoder", "Ensemble"]
