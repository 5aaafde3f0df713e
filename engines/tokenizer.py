"""CLIP's tokenizer, built from the merge list that ships with the pack, so that none is ever fetched."""

from __future__ import annotations

import functools
import gzip
import hashlib
from pathlib import Path
from typing import Any

from ..errors import CheckpointError

MERGES_FILE = Path(__file__).parent / "configs" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY_SIZE = 49408


def _byte_symbols() -> list[str]:
    """One printable character for each of the 256 bytes, in CLIP's (GPT-2's) order: printable bytes stand for
    themselves, the other 68 are numbered from U+0100 on and come last."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = 256 - len(printable)
    return [chr(byte) for byte in printable] + [chr(256 + index) for index in range(others)]


@functools.cache
def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary (token -> id, 49408 entries) and merges (48894 pairs, best first) of OpenAI's CLIP.

    Ids follow OpenAI's SimpleTokenizer: 256 byte symbols, the same at the end of a word, one token per merge in
    order of rank, start, end. Raises CheckpointError where the shipped file is missing or altered."""
    try:
        packed = MERGES_FILE.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"CLIP's vocabulary {MERGES_FILE} cannot be read ({error.strerror}): reinstall the pack."
        ) from error
    if hashlib.sha256(packed).hexdigest() != MERGES_SHA256:
        raise CheckpointError(f"CLIP's vocabulary {MERGES_FILE} is not the file that was shipped: reinstall the pack.")
    symbols = _byte_symbols()
    merge_count = VOCABULARY_SIZE - 2 * len(symbols) - 2
    # The first line names the file's version; what follows the last merge that CLIP uses belongs to a larger list.
    lines = gzip.decompress(packed).decode("utf-8").split("\n")[1 : merge_count + 1]
    merges = [(left, right) for left, right in (line.split() for line in lines)]
    tokens = [*symbols, *(symbol + "</w>" for symbol in symbols), *(a + b for a, b in merges), START, END]
    return {token: index for index, token in enumerate(tokens)}, merges


def clip_tokenizer(*, pad_token: str = END, model_max_length: int = 77) -> Any:
    """A transformers CLIPTokenizer. SD1.5 and SDXL's first encoder pad with the end token, SDXL's second with "!"."""
    from transformers import CLIPTokenizer

    vocabulary, merges = clip_vocabulary()
    return CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # annotated as strings, handed on to tokenizers, which wants pairs
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=pad_token,
        model_max_length=model_max_length,
    )
