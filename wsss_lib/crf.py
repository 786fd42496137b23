"""Dense conditional random field: labels that follow the edges of the photo.

Source: Krähenbühl and Koltun, "Efficient Inference in Fully Connected CRFs with Gaussian Edge Potentials",
NIPS 2011, through pydensecrf: Potts compatibility, symmetric normalisation, permutohedral lattice.
"""

from dataclasses import dataclass

import numpy as np
from pydensecrf.densecrf import DenseCRF2D


@dataclass(frozen=True)
class CRFParameters:
    """Two Gaussian kernels: over position (sxy in pixels), and over position and colour (srgb in 0..255).

    Each weight is what a neighbour of the same label adds to a label's score; `iterations` of mean field.
    """

    gaussian_sxy: float
    gaussian_weight: float
    bilateral_sxy: float
    bilateral_srgb: float
    bilateral_weight: float
    iterations: int


CRF_PARAMETERS = {
    # AffinityNet's released code, also SC-CAM, SEAM, OC-CSE and ACR: la, ha and refined maps, from scores.
    "psa": CRFParameters(3, 3, 80, 13, 10, 10),
    # IRNet's released code: from hard labels.
    "irn_label": CRFParameters(3, 3, 50, 5, 10, 10),
    # deeplab-pytorch, post-processing of DeepLab-v2; also SC-CAM, Mixup-CAM and CLIMS: from softmax. Its
    # published numbers ran on wrapped colours (mean subtracted, then cast to bytes); here it sees the photo.
    "deeplab_v2": CRFParameters(1, 3, 67, 3, 4, 10),
    # SEAM's released code, test of DeepLab-v1 on ResNet-38: from softmax.
    "seam_test": CRFParameters(3, 3, 32, 13, 10, 1),
    # SEAM's released code, optional CRF after the random walk: from walked scores.
    "seam_rw": CRFParameters(3, 3, 80, 13, 10, 1),
    # MCTformer and AuxSegNet, test of ResNet-38: from the maximum of the softmax over scales.
    "mctformer_test": CRFParameters(4, 3, 83, 5, 3, 10),
    # AuxSegNet's released code, update of the saliency maps: from their average, see refinement/saliency.py.
    "auxsegnet_saliency": CRFParameters(3, 3, 60, 5, 5, 1),
    # AFA, test, as its author comments: from softmax.
    "afa_test": CRFParameters(3, 3, 64, 5, 4, 10),
    # Example of pydensecrf: from hard labels.
    "pydensecrf_example": CRFParameters(3, 3, 80, 13, 10, 5),
}

# The lattice keeps its keys in 16 bits, unchecked: 5 features of at most 3600 kernel widths reach
# 8.9 * 3600 = 32 000 (Adams et al., "Fast High-Dimensional Filtering Using the Permutohedral Lattice", 2010).
WIDEST = 3600


def widest_side(parameters: CRFParameters | str, scale_factor: float = 1.0) -> float:
    """Longest side in pixels of a photo that `dense_crf` takes with these parameters; see `WIDEST`."""
    if isinstance(parameters, str):
        parameters = CRF_PARAMETERS[parameters]
    return WIDEST * min(parameters.gaussian_sxy, parameters.bilateral_sxy) / scale_factor


def background_score(maps: np.ndarray, alpha: float) -> np.ndarray:
    """(1 - max_c M_c)^alpha of maps (n, H, W) in [0, 1]: (H, W) float32, 1 for n = 0.

    AffinityNet, section 3.1. A small alpha gives a strong background, a large one a weak background.

    Raises:
        ValueError: maps that are not (n, H, W), hold NaN or leave [0, 1]; alpha not above 0.
    """
    if maps.ndim != 3 or not alpha > 0:
        raise ValueError(f"maps have shape {maps.shape} and alpha is {alpha}; give (n, H, W) and alpha > 0.")
    if not ((maps >= -1e-5) & (maps <= 1 + 1e-5)).all():  # interpolation rounds
        raise ValueError(
            f"maps hold NaN or values outside [0, 1] (from {maps.min()} to {maps.max()}); "
            "divide each map by its maximum and keep drawings out of it."
        )
    return (1 - maps.max(0, initial=0).astype(np.float32).clip(0, 1)) ** np.float32(alpha)


def unary_from_scores(scores: np.ndarray) -> np.ndarray:
    """-log p, p in [1e-5, 1] by clipping: scores (n, H, W) to energies (n, H, W) float32.

    The scores of a pixel need not sum to 1: mean field starts from p / sum p.
    """
    return -np.log(np.clip(scores, 1e-5, 1, dtype=np.float32))


def unary_from_labels(labels: np.ndarray, n: int, confidence: float = 0.7) -> np.ndarray:
    """Energies (n, H, W) float32 of hard labels (H, W) in 0..n-1, each right with probability `confidence`.

    -log(confidence) for the given label, -log((1 - confidence) / (n - 1)) for the others. With n = 1 there
    are no others, and the marginals are 1 whatever the energy.

    Raises:
        ValueError: labels outside 0..n-1 (void included) or not integers; confidence outside (0, 1).
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence is {confidence}; give a probability strictly between 0 and 1.")
    if not np.issubdtype(labels.dtype, np.integer) or not np.isin(labels, np.arange(n)).all():
        raise ValueError(
            f"labels ({labels.dtype}) hold {np.unique(labels)[:30]}; give positions 0..{n - 1}, not ids."
        )
    given = labels == np.arange(n)[:, None, None]
    others = (1 - confidence) / max(n - 1, 1)
    return -np.log(np.where(given, confidence, others)).astype(np.float32)


def dense_crf(
    image: np.ndarray, unary: np.ndarray, parameters: CRFParameters | str, scale_factor: float = 1.0
) -> np.ndarray:
    """Mean-field marginals (n, H, W) float32 of energies `unary` (n, H, W) on a photo (H, W, 3) uint8 RGB.

    Q_i(l) <- softmax_l(-U_i(l) + sum_m w_m sum_j k_m(i, j) Q_j(l)), all pixels at once, from softmax(-U);
    k_m are the two kernels, each divided by the square root of both pixels' sums over it.

    Args:
        parameters: a set of values, or the name of one in CRF_PARAMETERS.
        scale_factor: divides both sxy: 2 for a photo at half its size.

    Raises:
        ValueError: unknown name, image that is not uint8 (H, W, 3), unary of another size or not finite,
            kernels that are not above 0 or too narrow for the image.
    """
    if isinstance(parameters, str):
        if parameters not in CRF_PARAMETERS:
            raise ValueError(f"CRF parameters {parameters!r} are unknown; use one of {list(CRF_PARAMETERS)}.")
        parameters = CRF_PARAMETERS[parameters]
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"image is {image.dtype} {image.shape}; give the raw photo, uint8 RGB (H, W, 3).")
    if unary.ndim != 3 or unary.shape[1:] != image.shape[:2] or unary.size == 0:
        raise ValueError(f"unary is {unary.shape}; give (n, H, W) = (n, {image.shape[0]}, {image.shape[1]}).")
    if not np.isfinite(unary).all():
        raise ValueError("unary holds NaN or infinity; look for NaN in the scores it was made from.")
    n, height, width = unary.shape
    gaussian_sxy, bilateral_sxy = parameters.gaussian_sxy, parameters.bilateral_sxy
    if not (
        scale_factor > 0
        and max(height, width) <= widest_side(parameters, scale_factor)
        and 255 <= WIDEST * parameters.bilateral_srgb
    ):
        raise ValueError(
            f"{parameters} with scale_factor {scale_factor} suits no {height} x {width} image; sxy and srgb "
            f"must be above 0, and neither the image nor 0..255 wider than {WIDEST} of them."
        )

    crf = DenseCRF2D(width, height, n)  # width first; it refuses views and read-only arrays, hence the copies
    crf.setUnaryEnergy(np.array(unary, np.float32, order="C").reshape(n, -1))
    crf.addPairwiseGaussian(sxy=gaussian_sxy / scale_factor, compat=parameters.gaussian_weight)
    crf.addPairwiseBilateral(
        sxy=bilateral_sxy / scale_factor,
        srgb=parameters.bilateral_srgb,
        rgbim=np.array(image, order="C"),
        compat=parameters.bilateral_weight,
    )
    return np.array(crf.inference(parameters.iterations)).reshape(n, height, width)
