"""A latency model on disk: boosted trees as UBJSON, everything else as JSON beside them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from ofatvm.errors import MissingInputError
from ofatvm.files import replace_file

SCHEMA = 1
TREES_FILE, SIDECAR_FILE = "latency.ubj", "latency.json"
KEYS = frozenset(
    {
        *("space", "resolutions", "features", "feature_weights", "intercept", "block_weights"),
        *("cost", "tree_weight", "typical", "interval", "errors", "seed"),
    }
)


def write_model(directory: Path, trees: bytes, sidecar: dict[str, Any]) -> None:
    """Write both files whole; the sidecar records the digest of the trees and of itself."""
    directory.mkdir(parents=True, exist_ok=True)
    content = {"schema": SCHEMA, "kind": "latency", **sidecar}
    content["trees_sha256"] = hashlib.sha256(trees).hexdigest()
    content["sha256"] = _digest(content)
    replace_file(directory / TREES_FILE, trees)
    replace_file(directory / SIDECAR_FILE, json.dumps(content, indent=1).encode() + b"\n")


def read_model(directory: Path) -> tuple[bytes, dict[str, Any]]:
    """Trees and sidecar, checked against schema and digests."""
    try:
        content = json.loads((directory / SIDECAR_FILE).read_bytes())
        trees = (directory / TREES_FILE).read_bytes()
    except FileNotFoundError as error:
        raise stale(directory, f"is incomplete: {Path(error.filename).name} is missing") from None
    except (ValueError, RecursionError) as error:
        raise stale(directory, f"is damaged: {error}") from None
    if not isinstance(content, dict) or content.get("schema") != SCHEMA:
        raise stale(directory, f"is not of schema {SCHEMA}")
    if content.pop("sha256", None) != _digest(content) or not set(content) >= KEYS:
        raise stale(directory, f"is damaged: {SIDECAR_FILE} does not have the recorded digest")
    if content["trees_sha256"] != hashlib.sha256(trees).hexdigest():
        raise stale(directory, f"is damaged: {TREES_FILE} does not have the recorded digest")
    return trees, content


def stale(directory: Path, why: str) -> MissingInputError:
    """The error for a model that cannot be used."""
    return MissingInputError(
        f"the latency model in {directory} {why}", hint="fit it again from the measurements"
    )


def _digest(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
