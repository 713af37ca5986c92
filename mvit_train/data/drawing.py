"""Textured figures drawn into frames: what the built-in videos and images are made of. Needs numpy alone."""

import numpy as np
from numpy.random import Generator

# Signed distances to the outline of each kind in the object's own coordinates, where its radius is 1.
KINDS = {
    "square": lambda u, v: np.maximum(abs(u), abs(v)) - 0.8,
    "bar": lambda u, v: np.maximum(abs(u) - 1.0, abs(v) - 0.5),
    "triangle": lambda u, v: np.maximum(v, abs(u) * 0.866 - v * 0.5) - 0.55,
    "ring": lambda u, v: abs(np.hypot(u, v) - 0.75) - 0.25,
    "disc": lambda u, v: np.hypot(u, v) - 0.85,
    "half_disc": lambda u, v: np.maximum(np.hypot(u, v) - 1.0, v - 0.1),
    "crescent": lambda u, v: np.maximum(np.hypot(u, v) - 0.95, 0.75 - np.hypot(u - 0.45, v)),
    "frame": lambda u, v: abs(np.maximum(abs(u), abs(v)) - 0.65) - 0.2,
    "corner": lambda u, v: np.maximum(np.maximum(abs(u), abs(v)) - 0.85, np.minimum(u, -v) + 0.15),
    "cross": lambda u, v: np.minimum(np.maximum(abs(u) - 1.0, abs(v) - 0.35), np.maximum(abs(u) - 0.35, abs(v) - 1.0)),
}


def paint(frames: np.ndarray, place: np.ndarray, kind: str, texture: np.ndarray) -> None:
    """Draws one object into `frames` (T, S, S, 3); what leaves at one edge comes in at the other."""
    s = frames.shape[1]
    x, y, size, angle = (row[:, None, None].astype(np.float32) for row in place)
    pixel = (np.arange(s, dtype=np.float32) + 0.5) / s
    dx = (pixel[None, None, :] - x + 0.5) % 1.0 - 0.5
    dy = (pixel[None, :, None] - y + 0.5) % 1.0 - 0.5
    u = (dx * np.cos(angle) + dy * np.sin(angle)) / size
    v = (dy * np.cos(angle) - dx * np.sin(angle)) / size
    alpha = (0.5 - KINDS[kind](u, v) * size * s).clip(0.0, 1.0)  # an edge one pixel wide
    inside = alpha > 0
    colour = sample(texture, u[inside] * 5.0, v[inside] * 5.0)
    frames[inside] += alpha[inside][:, None] * (colour - frames[inside])


def sample(texture: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Colours (P, 3) of a texture that repeats, at P points in its pixels, interpolated linearly."""
    u0, v0 = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = (u - u0)[:, None], (v - v0)[:, None]
    n = len(texture)
    upper = texture[v0 % n, u0 % n] * (1 - fu) + texture[v0 % n, (u0 + 1) % n] * fu
    lower = texture[(v0 + 1) % n, u0 % n] * (1 - fu) + texture[(v0 + 1) % n, (u0 + 1) % n] * fu
    return upper * (1 - fv) + lower * fv


def object_texture(rng: Generator, mean: np.ndarray) -> np.ndarray:
    return texture(rng, 16, 4, mean, contrast=0.14)


def texture(rng: Generator, size: int, num_blots: int, mean: np.ndarray, *, contrast: float) -> np.ndarray:
    """Colours (size, size, 3) float32 that repeat: `mean` plus blots, `num_blots` in a row, and finer ones on them."""
    colours = np.zeros((size, size, 3)) + mean
    for n, strength in ((num_blots, contrast), (2 * num_blots, 0.7 * contrast)):
        points = np.linspace(0, n, size, endpoint=False)
        v, u = (grid.ravel() for grid in np.meshgrid(points, points, indexing="ij"))
        noise = rng.standard_normal((n, n, 1)) + 0.5 * rng.standard_normal((n, n, 3))
        colours += strength * sample(noise, u, v).reshape(size, size, 3)
    return colours.astype(np.float32)
