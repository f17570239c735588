"""Image in, restored image out: a network, its tiles, and the memory that they take."""
