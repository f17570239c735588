"""Measuring restored pictures."""
