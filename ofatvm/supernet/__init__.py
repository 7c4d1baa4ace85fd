"""The weight-sharing network: elastic layers, checkpoints, batch-norm calibration, folding.

Importing this package loads no torch; its modules do. `MEAN` and `STD` are the ImageNet channel
statistics (RGB, pixels in 0..1) that the published supernets expect: x = (pixel - MEAN) / STD.
"""

from __future__ import annotations

MEAN: tuple[float, float, float] = (0.485, 0.456, 0.406)
STD: tuple[float, float, float] = (0.229, 0.224, 0.225)
