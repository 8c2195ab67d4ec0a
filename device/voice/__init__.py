"""The voice process: the only folder that imports torch, and only where a model is really loaded."""
