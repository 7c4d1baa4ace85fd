"""Finding the best schedule of every workload of a space on a target."""
