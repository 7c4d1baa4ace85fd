"""The straight line, stage by stage; stages emit events and print nothing."""
