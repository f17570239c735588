"""From images to restored images: running a network, tiling, and memory."""
