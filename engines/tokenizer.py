"""CLIP's tokenizer, built from the merge list that ships with the pack, so that none is ever fetched."""

from __future__ import annotations

import functools
import gzip
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..safety.untrusted import FileRefused, from_json, parse_json, read_regular

MERGES_FILE = Path(__file__).parent / "configs" / "clip" / "bpe_simple_vocab_16e6.txt.gz"
MERGES_SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
START, END = "<|startoftext|>", "<|endoftext|>"
VOCABULARY_SIZE = 49408
MAX_FILE = 8 << 20  # bytes; CLIP's own files have up to 2


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


def read_clip_tokenizer(folder: Path) -> Any:
    """A CLIPTokenizer from a diffusers folder's own files: vocab.json and merges.txt, or else tokenizer.json; the words
    in added_tokens.json behind them. Raises CheckpointError."""
    try:
        return _from_files(folder)
    except CheckpointError:
        raise
    except Exception as error:  # the tokenizers library raises plain Exceptions
        reason = "a part is missing" if isinstance(error, KeyError) else str(error)
        raise CheckpointError(f"The tokenizer {folder} cannot be read ({reason}): copy the folder again.") from error


def _from_files(folder: Path) -> Any:
    from transformers import CLIPTokenizer

    vocabulary, merges = _vocabulary_of(folder)
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise ValueError("its words are not numbered from 0 on")
    if not all(part in vocabulary for pair in merges for part in (*pair, "".join(pair))):
        raise ValueError("its merges name parts that its vocabulary lacks")
    told = _json(folder / "special_tokens_map.json") | _json(folder / "tokenizer_config.json")
    special = {
        f"{name}_token": _content(told.get(f"{name}_token"), default)
        for name, default in (("bos", START), ("eos", END), ("unk", END), ("pad", END))
    }
    length = told.get("model_max_length", 77)
    tokenizer = CLIPTokenizer(
        vocab=vocabulary,
        merges=merges,  # type: ignore[arg-type]  # as above
        model_max_length=length if isinstance(length, int) and 0 < length <= 1024 else 77,
        **special,
    )
    added = from_json(dict[str, int], _json(folder / "added_tokens.json"))
    tokenizer.add_tokens([word for word in sorted(added, key=lambda word: added[word]) if word not in vocabulary])
    if any(tokenizer.convert_tokens_to_ids(word) != number for word, number in added.items()):
        raise ValueError("its added words have other numbers than it says")
    return tokenizer


def _vocabulary_of(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        lines = read_regular(folder / "merges.txt", MAX_FILE).decode("utf-8").split("\n")
        merges: Any = [tuple(line.split()) for line in lines if line.strip() and not line.startswith("#version")]
        words: Any = _json(folder / "vocab.json")
    else:
        model = _json(folder / "tokenizer.json")["model"]
        merges = [tuple(pair.split(" ")) if isinstance(pair, str) else pair for pair in model["merges"]]
        words = model["vocab"]
    return from_json(dict[str, int], words), from_json(list[tuple[str, str]], merges)


def _json(path: Path) -> dict[str, Any]:
    """A JSON object; an empty one where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = parse_json(read_regular(path, MAX_FILE))
    except (FileRefused, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}): copy the folder again.") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path} holds no JSON object: copy the folder again.")
    return content


def _content(token: Any, default: str) -> str:
    """A special token is written as text, or as an object that holds it."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) and token else default
