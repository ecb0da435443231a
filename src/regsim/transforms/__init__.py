"""Transforms: maps of fixed points to moving points, warping, and their files."""

from regsim.transforms.base import Transform as Transform
from regsim.transforms.base import jacobian_determinant as jacobian_determinant
from regsim.transforms.control_grid import ControlGrid as ControlGrid
from regsim.transforms.dense import Composite as Composite
from regsim.transforms.dense import DisplacementField as DisplacementField
from regsim.transforms.dense import VelocityField as VelocityField
from regsim.transforms.dense import on_grid as on_grid
from regsim.transforms.files import read_transform as read_transform
from regsim.transforms.files import write_transform as write_transform
from regsim.transforms.linear import Affine as Affine
from regsim.transforms.linear import LinearTransform as LinearTransform
from regsim.transforms.linear import Rigid as Rigid
from regsim.transforms.linear import Similarity as Similarity
from regsim.transforms.warp import resample as resample
from regsim.transforms.warp import warp as warp
