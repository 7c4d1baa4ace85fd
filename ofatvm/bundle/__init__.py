"""Bundles, the folders that ship: written whole or not at all, verified before they are loaded."""
