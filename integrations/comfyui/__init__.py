"""MoCE-IR in ComfyUI: copied to custom_nodes, this folder adds the node "MoCE-IR Restore", and lets
"Load Upscale Model" load MoCE-IR. What they do is in the installed package moceir."""

from moceir.integrations import spandrel
from moceir.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]

spandrel.install()
