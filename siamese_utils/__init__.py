"""One-shot learning with Siamese networks: train, evaluate and use encoders that recognise unseen classes.

The calls most people need are here; everything else is in the modules, whose names say what they hold.
"""

from siamese_utils.checkpoints import load_encoder, save_encoder
from siamese_utils.data import load_cifar100, load_images
from siamese_utils.encoders import Encoder
from siamese_utils.errors import SiameseError
from siamese_utils.oneshot import OneShotClassifier, classify_folder, load_image

__version__ = "0.1.0"
__all__ = [
    "Encoder",
    "OneShotClassifier",
    "SiameseError",
    "classify_folder",
    "load_cifar100",
    "load_encoder",
    "load_image",
    "load_images",
    "save_encoder",
]
