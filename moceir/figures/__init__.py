"""The paper's figures from any weights, drawn by matplotlib: ``pip install 'moceir[figures]'``."""
