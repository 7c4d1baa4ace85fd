"""What runs compiled code and times it."""
