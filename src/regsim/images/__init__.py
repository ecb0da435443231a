"""Images: values on a grid in physical space, and the files that they come from."""

from regsim.images.grid import Grid as Grid
from regsim.images.image import Image as Image
from regsim.images.io import read_image as read_image
from regsim.images.io import read_mask as read_mask
from regsim.images.io import write_image as write_image
from regsim.images.landmarks import read_landmarks as read_landmarks
from regsim.images.landmarks import write_landmarks as write_landmarks
