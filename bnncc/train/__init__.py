"""Training: networks of `bnncc.nn` on images in memory, deterministic, and resumed where it was cut off."""

from bnncc.train.data import Data, Part, read
from bnncc.train.evaluate import accuracy
from bnncc.train.history import Epoch, History
from bnncc.train.loop import fit
from bnncc.train.options import Options
from bnncc.train.stop import Stopped

__all__ = ["Data", "Epoch", "History", "Options", "Part", "Stopped", "accuracy", "fit", "read"]
