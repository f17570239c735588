"""MoCE-IR inside other programs. Each module here is imported only by those who use it."""
