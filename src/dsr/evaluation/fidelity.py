"""How close reconstructions are to their images, one by one: PSNR and SSIM, by scikit-image."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from dsr.data import npz

Image = npt.NDArray[np.uint8]


def fidelity(reconstructions: Path, originals: Path, threads: int) -> dict[str, float]:
    """Return the mean PSNR (dB) and SSIM over all images, whose originals are in the same order."""
    values: list[tuple[float, float]] = []
    with ThreadPoolExecutor(threads) as pool:
        for pair in zip(npz.read_images(reconstructions), npz.read_images(originals), strict=True):
            values += pool.map(compare, *pair)
    psnr, ssim = np.mean(values, axis=0)
    return {"psnr": float(psnr), "ssim": float(ssim)}


def compare(image: Image, original: Image) -> tuple[float, float]:
    """PSNR and SSIM of one image, uint8 (H, W, 3): values from 0 to 255 over all channels; for SSIM the mean over
    channels, and the Gaussian window of Wang et al. 2004: deviation 1.5, 11 pixels wide, borders left out."""
    # It takes a second, which the scores of samples do without.
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    psnr = peak_signal_noise_ratio(original, image, data_range=255)  # type: ignore[no-untyped-call]
    options = {"channel_axis": -1, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    ssim = structural_similarity(original, image, data_range=255, **options)  # type: ignore[no-untyped-call]
    return float(psnr), float(ssim)
