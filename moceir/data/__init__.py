"""Pictures to train on: clean photographs and the degradations that spoil them."""
