"""The demo base: a diffusion model small enough to train, adapt and sample on two CPU cores.

It exists so that the whole pipeline runs on a bare machine: 128 px pictures, 16x16x32 latents, 11 M parameters.
Three parts travel in one safetensors file: `unet.*` (a UNet2DConditionModel), `codec.*` (patch PCA) and `text.*`
(a closed-vocabulary encoder). `tools/` makes it from synthetic people; nobody real is in its data.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError
from ..safety.tensors import TensorHeader, read_header, read_tensors
from ..safety.untrusted import FileRefused, from_json, parse_json

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel

PIXELS = 128
PATCH = 8
LATENT_CHANNELS = 32
TOKENS = 32
WIDTH = 128
FORMAT = "identity-lock-demo-base/1"
MAX_BYTES = 256 << 20  # the shipped one has 21 MiB

# Channel counts are whole multiples of the first and every norm has 32 groups: ComfyUI's own UNet class can carry it.
UNET_CONFIG: dict[str, Any] = dict(
    sample_size=PIXELS // PATCH,
    in_channels=LATENT_CHANNELS,
    out_channels=LATENT_CHANNELS,
    block_out_channels=(64, 128, 192),
    layers_per_block=1,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=WIDTH,
    attention_head_dim=4,  # diffusers' name for the number of heads
    norm_num_groups=32,
)
# Zero terminal SNR with trailing steps, so that the first step decides the light and the background from the prompt
# alone (Lin et al. 2024, "Common diffusion noise schedules and sample steps are flawed").
SCHEDULE: dict[str, Any] = dict(
    num_train_timesteps=1000,
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="sample",
    clip_sample=False,
    set_alpha_to_one=True,
    timestep_spacing="trailing",
    rescale_betas_zero_snr=True,
)


class PatchPCA(nn.Module):
    """A closed-form codec: each 8x8 patch is projected on its leading principal components.

    encode: (N, 3, H, W) in [-1, 1] -> (N, 32, H/8, W/8); decode is its transpose. No gradient training: a trained
    autoencoder of the same size lost the face. operations: where the layers come from, for a host that has its own.
    """

    def __init__(self, operations: Any = nn) -> None:
        super().__init__()
        self.encoder = operations.Conv2d(3, LATENT_CHANNELS, PATCH, stride=PATCH)
        self.decoder = operations.ConvTranspose2d(LATENT_CHANNELS, 3, PATCH, stride=PATCH, bias=False)
        self.register_buffer("mean", torch.zeros(1, 3, PATCH, PATCH))
        self.requires_grad_(False)

    def encode(self, pixels: Tensor) -> Tensor:
        return self.encoder(pixels)

    def decode(self, latents: Tensor) -> Tensor:
        # a host that moves weights module by module leaves buffers behind
        tiled = self.get_buffer("mean").to(latents.device).repeat(1, 1, latents.shape[2], latents.shape[3])
        return (self.decoder(latents) + tiled).clamp(-1.0, 1.0)

    @classmethod
    def fit(cls, pixels: Tensor, *, whitened: int = 16, scale: float = 1.8) -> PatchPCA:
        """pixels: (N, 3, H, W) in [-1, 1]. The first `whitened` components get unit variance times `scale`, the rest
        keep their smaller share, so that noise reaches the fine detail first."""
        codec = cls()
        size = 3 * PATCH * PATCH
        patches = pixels.unfold(2, PATCH, PATCH).unfold(3, PATCH, PATCH).permute(0, 2, 3, 1, 4, 5)
        flat = patches.reshape(-1, size).double()
        mean = flat.mean(0)
        centred = flat - mean
        basis, variance, _ = torch.linalg.svd(centred.T @ centred / len(flat))
        basis, deviation = basis[:, :LATENT_CHANNELS], variance[:LATENT_CHANNELS].sqrt()
        gain = scale / torch.maximum(deviation, deviation[whitened - 1])
        shape = (LATENT_CHANNELS, 3, PATCH, PATCH)
        codec.encoder.weight.data = (basis * gain).T.reshape(shape).float().contiguous()
        assert codec.encoder.bias is not None
        codec.encoder.bias.data = (-(mean @ basis) * gain).float()
        codec.decoder.weight.data = (basis / gain).T.reshape(shape).float().contiguous()
        codec.get_buffer("mean").copy_(mean.reshape(1, 3, PATCH, PATCH).float())
        return codec


@dataclass(frozen=True)
class Tokens:
    """ids, phrases: (T,) long; words the vocabulary lacks, in the order met."""

    ids: Tensor
    phrases: Tensor
    unknown: tuple[str, ...]


class Vocabulary:
    """Prompts as numbered words of a closed vocabulary, each with the number of its phrase; 0 is padding."""

    PAD = 0
    IGNORED = frozenset(("a", "an", "and", "at", "from", "in", "is", "of", "on", "the", "to", "with"))

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = tuple(words)
        self._index = {word: i + 1 for i, word in enumerate(self.words)}

    def __len__(self) -> int:
        """How many ids there are, the padding among them."""
        return len(self.words) + 1

    def read(self, text: str, phrase: int = 0) -> tuple[list[tuple[int, int]], list[str], int]:
        """(id, phrase) of each known word, the unknown words, and the number of the phrase that `text` ends in.

        phrase: the number of the phrase that `text` begins in, when it goes on from another piece of the prompt.
        """
        known: list[tuple[int, int]] = []
        unknown: list[str] = []
        phrases = text.lower().split(",")
        for number, part in enumerate(phrases, phrase):
            for word in re.findall(r"[a-z0-9]+", part):
                if word in self.IGNORED:  # though the vocabulary may list it: the base never saw it
                    continue
                if word in self._index:
                    known.append((self._index[word], number))
                else:
                    unknown.append(word)
        return known, unknown, phrase + len(phrases) - 1

    def pad(self, words: list[tuple[int, int]]) -> list[tuple[int, int]]:
        """Exactly TOKENS of them; the padding is a phrase of its own."""
        words = words[:TOKENS]
        after = words[-1][1] + 1 if words else 0
        words = words + [(self.PAD, after)] * (TOKENS - len(words))
        return [(word, min(phrase, TOKENS - 1)) for word, phrase in words]


class PhraseEncoder(nn.Module):
    """A closed-vocabulary text encoder: each word's embedding plus a projection of its phrase's mean.

    Phrases are what commas separate, so that in "green background, red shirt" the word green knows its background.
    operations: as PatchPCA's.
    """

    def __init__(self, vocabulary: tuple[str, ...], operations: Any = nn) -> None:
        super().__init__()
        self.vocabulary = Vocabulary(vocabulary)
        self.words = operations.Embedding(len(self.vocabulary), WIDTH)
        self.phrase = operations.Linear(WIDTH, WIDTH)
        self.norm = operations.LayerNorm(WIDTH)

    def tokenise(self, prompt: str) -> Tokens:
        known, unknown, _ = self.vocabulary.read(prompt)
        ids, phrases = torch.tensor(self.vocabulary.pad(known)).T
        return Tokens(ids, phrases, tuple(dict.fromkeys(unknown)))

    def forward(self, ids: Tensor, phrases: Tensor) -> Tensor:
        """ids, phrases: (N, T) long -> (N, T, 128)."""
        words = self.words(ids)
        member = nn.functional.one_hot(phrases, TOKENS).to(words.dtype)
        count = member.sum(1).clamp(min=1.0)
        means = torch.einsum("ntp,ntd->npd", member, words) / count[..., None]
        return self.norm(words + self.phrase(torch.einsum("ntp,npd->ntd", member, means)))

    def encode(self, prompt: str) -> tuple[Tensor, tuple[str, ...]]:
        """(1, T, 128) and the words that were left out because the vocabulary lacks them."""
        tokens = self.tokenise(prompt)
        return self(tokens.ids[None].to(self.words.weight.device), tokens.phrases[None].to(self.words.weight.device)), (
            tokens.unknown
        )


@dataclass
class DemoBase:
    """The three modules, in float32 and in evaluation mode, and what the file says of itself."""

    unet: UNet2DConditionModel
    codec: PatchPCA
    text: PhraseEncoder
    metadata: dict[str, str]


def new_unet() -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(**UNET_CONFIG)


def new_scheduler() -> DDIMScheduler:
    from diffusers import DDIMScheduler

    return DDIMScheduler(**SCHEDULE)


def save_demo_base(base: DemoBase, path: Path) -> None:
    """One safetensors file: the UNet and the text encoder in float16, the codec in float32."""
    from safetensors.torch import save_file

    state: dict[str, Tensor] = {}
    for prefix, module, dtype in (
        ("unet", base.unet, torch.float16),
        ("text", base.text, torch.float16),
        ("codec", base.codec, torch.float32),
    ):
        state |= {f"{prefix}.{k}": v.detach().to("cpu", dtype).contiguous() for k, v in module.state_dict().items()}
    metadata = base.metadata | {"format": FORMAT, "vocabulary": json.dumps(base.text.vocabulary.words)}
    save_file(state, str(path), metadata=metadata)


@dataclass(frozen=True)
class DemoFile:
    """What a demo base's file holds: the float32 state dicts of its parts, and what it says of itself."""

    path: Path
    unet: dict[str, Tensor]
    codec: dict[str, Tensor]
    text: dict[str, Tensor]
    vocabulary: tuple[str, ...]
    metadata: dict[str, str]

    def fill(self, module: nn.Module, state: dict[str, Tensor]) -> None:
        """Loads one part, ready to use. Raises CheckpointError where keys or shapes are not the module's."""
        try:
            module.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise CheckpointError(
                f"The demo base {self.path} is incomplete ({reason}); restore it from the repository."
            ) from error
        module.requires_grad_(False).eval()


def read_demo_file(path: Path) -> DemoFile:
    """Raises CheckpointError for a file that is missing, damaged or not a demo base."""
    if not os.path.isfile(path):
        raise CheckpointError(f"The demo base is not at {path}; restore it from the repository (git checkout).")
    try:
        header = read_header(path)
        if header.metadata.get("format") != FORMAT:
            raise CheckpointError(f"{path} is not a demo base of format {FORMAT}; give a file that tools/ made.")
        if header.size > MAX_BYTES:
            raise FileRefused(f"it is larger than {MAX_BYTES >> 20} MiB")
        vocabulary = _vocabulary(header)
        tensors, _ = read_tensors(path, "pt")
    except FileRefused as error:
        raise CheckpointError(f"The demo base {path} is damaged ({error}); restore it from the repository.") from error

    def part(prefix: str) -> dict[str, Tensor]:
        return {key[len(prefix) :]: value.float() for key, value in tensors.items() if key.startswith(prefix)}

    return DemoFile(path, part("unet."), part("codec."), part("text."), vocabulary, dict(header.metadata))


def _vocabulary(header: TensorHeader) -> tuple[str, ...]:
    """As many words as the file has embeddings for: their table is made before it is filled. Raises FileRefused."""
    try:
        words = from_json(tuple[str, ...], parse_json(header.metadata.get("vocabulary", "")))
    except ValueError as error:
        raise FileRefused(f"its vocabulary is no list of words: {error}") from error
    if header.shapes.get("text.words.weight", (0,))[:1] != (len(words) + 1,):
        raise FileRefused("it has another number of words than embeddings")
    return words


def load_demo_base(path: Path) -> DemoBase:
    """Raises CheckpointError for a file that is missing, damaged or not a demo base."""
    file = read_demo_file(path)
    base = DemoBase(new_unet(), PatchPCA(), PhraseEncoder(file.vocabulary), file.metadata)
    file.fill(base.unet, file.unet)
    file.fill(base.codec, file.codec)
    file.fill(base.text, file.text)
    return base
