"""Importing this first makes ComfyUI's modules work on the CPU, as `main.py --cpu` does."""

import comfy.cli_args

comfy.cli_args.args.cpu = True
