"""regsim: similarity metrics for image registration, and a registration driver that works with any of them.

Data flows down this list: images, prepare, transforms, metrics, registration, evaluation, applications, report, command line.
"""

from regsim.errors import RegsimError as RegsimError
from regsim.evaluation.scoring import score as score
from regsim.images import Grid as Grid
from regsim.images import Image as Image
from regsim.images import read_image as read_image
from regsim.images import write_image as write_image
from regsim.metrics import AbstractMetric as AbstractMetric
from regsim.metrics import load_metric as load_metric
from regsim.registration import Registration as Registration
from regsim.registration import register as register
from regsim.transforms import Transform as Transform
from regsim.transforms import read_transform as read_transform
from regsim.transforms import warp as warp
from regsim.transforms import write_transform as write_transform

__version__ = "0.1.0"
