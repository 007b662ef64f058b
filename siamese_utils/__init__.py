"""One-shot learning with Siamese networks: train, evaluate and use encoders that recognise unseen classes.

The calls most people need are here; everything else is in the modules, whose names say what they hold.
"""

import sys

from siamese_utils.data.cifar import load_cifar10, load_cifar100
from siamese_utils.data.image_files import load_image
from siamese_utils.data.load import load_images
from siamese_utils.encoders import imprinting
from siamese_utils.encoders.checkpoints import load_encoder, save_encoder
from siamese_utils.encoders.encoder import Encoder, Ensemble
from siamese_utils.encoders.export import export_onnx
from siamese_utils.encoders.imprinting import CosineClassifier
from siamese_utils.encoders.named import best_encoder
from siamese_utils.errors import SiameseError
from siamese_utils.recognition.check import check_folder
from siamese_utils.recognition.classifier import OneShotClassifier, classify_folder
from siamese_utils.recognition.index import EmbeddingIndex

__version__ = "0.1.0"
__all__ = [
    "CosineClassifier",
    "EmbeddingIndex",
    "Encoder",
    "Ensemble",
    "OneShotClassifier",
    "SiameseError",
    "best_encoder",
    "check_folder",
    "classify_folder",
    "export_onnx",
    "load_cifar10",
    "load_cifar100",
    "load_encoder",
    "load_image",
    "load_images",
    "save_encoder",
]

# Earlier versions had this module here, and told people to import CosineClassifier from it.
sys.modules["siamese_utils.imprinting"] = imprinting
