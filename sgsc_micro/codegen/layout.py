"""The user's arrays and the bytes that the C library takes and gives, by the layouts of a manifest."""

from __future__ import annotations

from typing import Any

import numpy as np

from sgsc_micro.errors import SgscError


def to_stored(manifest: dict[str, Any], x: np.ndarray) -> np.ndarray:
    """Float inputs [N, ...] as the user's network takes them, quantised and laid out as stored: int8 [N, input bytes].

    int8 inputs are taken as quantised already; a row of them may be flat. Errors: ``SgscError`` for another shape, or
    NaN.
    """
    layout = manifest["input"]
    if x.dtype == np.int8 and x.shape[1:] == (layout["bytes"],):
        x = x.reshape(len(x), *layout["shape"])
    if list(x.shape[1:]) != layout["shape"]:
        raise SgscError(
            f"inputs have shape {list(x.shape)}, the model takes [N, {', '.join(map(str, layout['shape']))}]"
        )
    if not np.isfinite(x).all():
        raise SgscError("inputs hold NaN or infinite values", hint="clean the data first")
    if x.dtype != np.int8:
        x = np.clip(np.floor(x.astype(np.float64) / layout["scale"] + 0.5) + layout["zero_point"], -128, 127).astype(
            np.int8
        )
    stored = x if layout["axes"] is None else x.transpose(layout["axes"])
    return np.ascontiguousarray(stored).reshape(len(x), layout["bytes"])


def from_stored(manifest: dict[str, Any], y: np.ndarray) -> np.ndarray:
    """int8 outputs as stored to float32 [N, ...] as the user's network gives them."""
    layout = manifest["output"]
    return arranged(manifest, ((y.astype(np.float64) - layout["zero_point"]) * layout["scale"]).astype(np.float32))


def arranged(manifest: dict[str, Any], y: np.ndarray) -> np.ndarray:
    """Outputs [N, output bytes] in the shape and order in which the user's network gives them."""
    layout = manifest["output"]
    shaped = y.reshape(len(y), *layout["stored_shape"])
    return shaped if layout["axes"] is None else shaped.transpose(layout["axes"])


def to_real(manifest: dict[str, Any], stored: np.ndarray) -> np.ndarray:
    """What int8 inputs [N, input bytes] stand for, float32 [N, ...] as the user's network takes them.

    Quantised again, they are the same bytes.
    """
    layout = manifest["input"]
    real = ((stored.astype(np.float64) - layout["zero_point"]) * layout["scale"]).astype(np.float32)
    shaped = real.reshape(len(stored), *layout["stored_shape"])
    return shaped if layout["axes"] is None else shaped.transpose(np.argsort(layout["axes"]))
