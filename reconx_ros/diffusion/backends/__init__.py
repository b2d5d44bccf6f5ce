"""View generators; see the registry in ``diffusion/base.py``."""
