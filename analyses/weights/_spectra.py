"""Singular values and subspaces of a matrix from the Gram matrix of its smaller side.

An embedding of 152k rows costs d_model^3, and no more is in memory than the matrix and a square of its smaller side.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from probe.lazily import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

ROWS_AT_ONCE = 8192
DIRECT = 1024  # smaller side up to which an SVD is quick


def singular(
    matrix: Float[Tensor, "row column"], k: int
) -> tuple[Float[Tensor, " rank"], Float[Tensor, "row k"], Float[Tensor, "column k"]]:
    """All singular values, falling, and the first k left and right singular vectors, in float64.

    The k largest values are norms of projections, exact to the last digits; the others are roots of eigenvalues and
    exact to 1e-8 of the largest.
    """
    if matrix.shape[0] < matrix.shape[1]:
        s, right, left = singular(matrix.T, k)
        return s, left, right
    values, vectors = torch.linalg.eigh(gram(matrix))
    s = values.flip(0).clamp(min=0).sqrt()
    right = vectors.flip(1)[:, :k]
    left = torch.cat([rows.double() @ right for rows in matrix.split(ROWS_AT_ONCE)])
    s[:k] = left.norm(dim=0)
    return s, left / torch.where(s[:k] > 0, s[:k], 1.0), right


def singular_values(matrix: Float[Tensor, "row column"]) -> Float[Tensor, " rank"]:
    """All singular values, falling, in float64: by SVD where it is small, else roots of the Gram's eigenvalues."""
    if min(matrix.shape) <= DIRECT:
        return torch.linalg.svdvals(matrix.double())
    tall = matrix if matrix.shape[0] >= matrix.shape[1] else matrix.T
    return torch.linalg.eigvalsh(gram(tall)).flip(0).clamp(min=0).sqrt()


def gram(matrix: Float[Tensor, "row column"]) -> Float[Tensor, "column column"]:
    """M^T M in float64, summed over blocks of rows."""
    total = torch.zeros(matrix.shape[1], matrix.shape[1], dtype=torch.float64)
    for rows in matrix.split(ROWS_AT_ONCE):
        block = rows.double()
        total += block.T @ block
    return total


def effective_rank(s: Float[Tensor, " rank"]) -> float:
    """exp of the entropy of s / sum(s): 1 for one direction, n for n equal ones; NaN where all are 0."""
    total = s.sum()
    if total <= 0:
        return float("nan")
    f = s[s > 0] / total
    return float(torch.exp(-(f * f.log()).sum()))


def principal_angles(a: Float[Tensor, "d k"], b: Float[Tensor, "d l"]) -> Float[Tensor, " angle"]:
    """Principal angles in degrees, rising, between the spans of two sets of orthonormal columns (Bjorck and Golub).

    Small ones from sines, large ones from cosines, so that both ends have all their digits.
    """
    if a.shape[1] < b.shape[1]:
        a, b = b, a
    cosines = torch.linalg.svdvals(a.T @ b).clamp(max=1)
    sines = torch.linalg.svdvals(b - a @ (a.T @ b)).clamp(max=1).flip(0)
    return torch.rad2deg(torch.where(cosines**2 < 0.5, cosines.acos(), sines.asin()))
