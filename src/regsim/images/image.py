"""An image: values on a grid, with an optional mask."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import SimpleITK as sitk
import torch

from regsim.errors import GridError, InputError
from regsim.images.grid import Grid


@dataclass(frozen=True)
class Image:
    """Values on a grid.

    Args:
        data: `(C, *grid.shape)`, float32, or an integer type for a label map.
        grid: where the voxels lie.
        mask: None, or `(1, *grid.shape)` weights in [0, 1]: where the values can be trusted.
        name: what to call it in tables and messages.

    Raises:
        GridError: data or mask do not fit the grid.
    """

    data: torch.Tensor
    grid: Grid
    mask: torch.Tensor | None = None
    name: str = "image"

    def __post_init__(self) -> None:
        if self.data.ndim != self.grid.ndim + 1 or tuple(self.data.shape[1:]) != self.grid.shape:
            raise GridError(f"{self.name}: data {tuple(self.data.shape)} do not fit a grid of shape {self.grid.shape}")
        if self.mask is not None and tuple(self.mask.shape) != (1, *self.grid.shape):
            raise GridError(
                f"{self.name}: mask {tuple(self.mask.shape)} does not fit a grid of shape {self.grid.shape}"
            )

    @classmethod
    def of_array(
        cls,
        array: npt.ArrayLike | torch.Tensor,
        spacing: float | tuple[float, ...] | None = None,
        name: str = "image",
    ) -> "Image":
        """From a `(z, y, x)` or `(y, x)` array; `spacing` in mm as x, y(, z), or None for pixels.

        >>> Image.of_array([[0.0, 1.0], [2.0, 3.0]]).grid.unit
        'px'
        """
        data = torch.as_tensor(np.asarray(array) if not isinstance(array, torch.Tensor) else array)
        if data.ndim not in (2, 3):
            raise InputError(f"{name}: expected a 2-D or 3-D array, got shape {tuple(data.shape)}")
        grid = Grid.of(tuple(data.shape), 1.0 if spacing is None else spacing, "px" if spacing is None else "mm")
        return cls(data.to(torch.float32)[None], grid, name=name)

    def filled(self) -> "Image":
        """float32, with 0 for values outside the mask that are not finite, so that no interpolation spreads them."""
        data = self.data.float()
        if self.mask is None:
            return replace(self, data=data)
        return replace(self, data=torch.where((self.mask > 0) | torch.isfinite(data), data, torch.zeros_like(data)))

    @property
    def ndim(self) -> int:
        """2 or 3."""
        return self.grid.ndim

    @property
    def batch(self) -> torch.Tensor:
        """The values as metrics want them, `(1, C, *shape)`."""
        return self.data[None]

    @property
    def mask_batch(self) -> torch.Tensor | None:
        """The mask as metrics want it, `(1, 1, *shape)`, or None."""
        return None if self.mask is None else self.mask[None]

    @property
    def is_labels(self) -> bool:
        """Holds whole numbers that name regions."""
        return not self.data.is_floating_point()

    def with_data(self, data: torch.Tensor) -> "Image":
        """The same grid and name, other values."""
        return replace(self, data=data)

    def to(self, device: torch.device | str) -> "Image":
        """On another device."""
        mask = None if self.mask is None else self.mask.to(device)
        return replace(self, data=self.data.to(device), mask=mask)

    def numpy(self) -> npt.NDArray[np.generic]:
        """The values as an array: `(z, y, x)` for one channel, `(C, z, y, x)` for more."""
        array: npt.NDArray[np.generic] = self.data.detach().cpu().numpy()
        return array[0] if array.shape[0] == 1 else array

    def to_sitk(self) -> sitk.Image:
        """As a SimpleITK image (channels become a vector)."""
        array = self.data.detach().cpu().numpy()
        if array.dtype == np.int64 and array.size and np.abs(array).max() < 2**31:
            array = array.astype(np.int32)
        several = array.shape[0] > 1
        image = sitk.GetImageFromArray(np.moveaxis(array, 0, -1) if several else array[0], isVector=several)
        image.SetSpacing(self.grid.spacing)
        image.SetOrigin(self.grid.origin)
        image.SetDirection(np.ravel(self.grid.direction).tolist())
        return image
