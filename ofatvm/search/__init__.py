"""Search: domination among points, and evolution of whole populations of architectures."""
