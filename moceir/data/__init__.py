"""Training images: clean photographs and the degradations applied to them."""
