"""The demo base as ComfyUI objects, measured against the embedded engine in one process. Prints what was measured.

demo_loader.py [FOLDER]: also writes the pictures of both sides there, as PNG.
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path

import on_cpu  # noqa: F401  (before anything else of ComfyUI)

# isort: split

import comfy.lora
import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import folder_paths
import latent_preview
import numpy as np
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from PIL import Image

import nodes
from identity_lock.engines import demo_base
from identity_lock.engines.comfy_demo import ASSETS, BASE, LOOKS, load_demo, unknown_words
from identity_lock.engines.diffusers import lora_key, open_demo_base
from identity_lock.engines.lora_file import LoraWeights
from identity_lock.engines.protocol import SampleRequest
from identity_lock.errors import CheckpointError

PROMPT = "photo of sks person, man, short brown hair, beard, green background"
SEEDS = (1187891159, 1187891160, 1187891161, 1187891162)
STEPS, CFG, SIZE = 8, 1.5, 128


class Warned(logging.Handler):
    """Every warning that ComfyUI logs while a check runs."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.texts = []

    def emit(self, record):
        self.texts.append(record.getMessage())


def digest(module):
    import hashlib

    whole = hashlib.sha256()
    for name, tensor in sorted(module.state_dict().items()):
        whole.update(name.encode() + tensor.detach().cpu().float().contiguous().numpy().tobytes())
    return whole.hexdigest()


def digests(parts):
    model, clip, vae = parts
    return [digest(model.model.diffusion_model), digest(clip.cond_stage_model), digest(vae.first_stage_model)]


def away(ours, theirs):
    """The largest difference relative to the largest value."""
    return float((ours - theirs).abs().max() / theirs.abs().max())


def encoded(clip, prompt):
    return clip.encode_from_tokens_scheduled(clip.tokenize(prompt))


def picture(parts, seed, sampler="ddim", scheduler="simple", steps=STEPS, cfg=CFG):
    """uint8 (SIZE, SIZE, 3), the way KSampler and VAEDecode make it."""
    model, clip, vae = parts
    empty = comfy.sample.fix_empty_latent_channels(model, torch.zeros(1, 4, SIZE // 8, SIZE // 8))
    latent = comfy.sample.sample(
        model, comfy.sample.prepare_noise(empty, seed), steps, cfg, sampler, scheduler,
        encoded(clip, PROMPT), encoded(clip, ""), empty, seed=seed, disable_pbar=True,
    )  # fmt: skip
    return levels(vae.decode(latent))


def levels(pixels):
    return (pixels[0] * 255.0).round().byte().numpy()


def embedded(engine):
    request = SampleRequest(
        engine.encode_prompt(PROMPT), engine.encode_prompt(""), SEEDS, SIZE, SIZE, STEPS, CFG, "ddim", "simple"
    )
    return engine.decode_latents(engine.sample(request).latents)


def noises_predicted(parts, engine):
    unet = parts[0].model.diffusion_model
    generator = torch.Generator().manual_seed(3)
    found = []
    for timestep in (0, 17, 250, 500, 874, 999):
        x = torch.randn(2, 32, 16, 16, generator=generator)
        context = torch.cat([engine.encode_prompt(PROMPT).data, engine.encode_prompt("woman, red hair").data])
        when = torch.tensor([timestep, timestep])
        theirs = engine.unet(x, when, encoder_hidden_states=context).sample
        found.append(away(unet(x, when.float(), context=context), theirs))
    return found


def noise_levels(parts, engine):
    """Relative difference of each timestep's noise level; the last is infinite there and very large here."""
    ours = parts[0].get_model_object("model_sampling").sigmas
    theirs = engine.rule.noise / engine.rule.signal
    return {"widest": float(((ours - theirs) / theirs)[:-1].abs().max()), "last": float(ours[-1]), "count": len(ours)}


def codec(parts, engine):
    vae = parts[2]
    photo = Image.open(ASSETS / "photos" / "synthetic_1.png").convert("RGB").resize((192, 128))
    pixels = torch.from_numpy(np.array(photo)).float().div(255.0)[None]
    latent, theirs = vae.encode(pixels), engine.encode_images([np.array(photo)])
    decoded = engine.codec.decode(theirs).add(1.0).div(2.0).movedim(1, -1)
    format_ = parts[0].get_model_object("latent_format")
    preview = latent_preview.Latent2RGBPreviewer(format_.latent_rgb_factors, format_.latent_rgb_factors_bias)
    small = np.array(preview.decode_latent_to_preview(latent)).astype(float)
    box = decoded[0].reshape(16, 8, 24, 8, 3).mean((1, 3)).mul(255.0).numpy()
    return {
        "encode": float((latent - theirs).abs().max()),
        "decode": float((vae.decode(theirs) - decoded).abs().max()),
        "tiled_encode": float((vae.encode_tiled(pixels, 64, 64, 16) - theirs).abs().max()),
        "tiled_decode": float((vae.decode_tiled(theirs, 8, 8, 2) - decoded).abs().max()),
        "cropped": list(vae.encode(pixels[:, :101, :67]).shape),
        "batch": list(vae.decode(vae.encode(pixels.expand(3, -1, -1, -1))).shape),
        "preview": float(np.abs(small - box).mean()),
    }


def text(parts, engine):
    clip = parts[1]
    plain = [PROMPT, "", "woman, zebra, Red Hair, zebra , gallop", ", ".join(["red, hair"] * 40), "photo, , ,beard"]
    shapes, widest = [], 0.0
    for prompt in plain:
        (context, extra), *more = encoded(clip, prompt)
        shapes.append([list(context.shape), context.dtype == torch.float32, len(more)])
        widest = max(widest, float((context - engine.encode_prompt(prompt).data).abs().max()))
    changed = {
        prompt: float((encoded(clip, prompt)[0][0] - encoded(clip, "man, beard")[0][0]).abs().max())
        for prompt in ("man, (beard:1.0)", "man, (beard:1.4)", "man, ((beard))", "man, \\(beard\\)", "man, (beard")
    }
    halfway = encoded(clip, "man, (beard:0.5)")[0][0]
    middle = (encoded(clip, "man, beard")[0][0] + encoded(clip, "")[0][0]) / 2
    ours = engine.encode_prompt("man, beard").data
    return {
        "shapes": shapes,
        "widest": widest,
        "changed": changed,
        "halfway": float((halfway[0, 1] - middle[0, 1]).abs().max()),
        "unweighted_word": float((halfway[0, 0] - ours[0, 0]).abs().max()),
        "embedding": list(encoded(clip, "embedding:nobody, man BREAK beard [red|blue] <lora:x:1>")[0][0].shape),
        "unknown": unknown_words(clip, "a zebra, (gallop:1.3), man, zebra"),
        "unknown_elsewhere": unknown_words(object(), "zebra"),
        "word_ids": clip.tokenize("man, zebra, beard", return_word_ids=True)["phrases"][0][:3],
        "words": [word for _, word in clip.tokenizer.untokenize(clip.tokenize("man, beard")["phrases"][0])][:3],
        "after_clip_skip": skipped(clip),
    }


def skipped(clip):
    (other,) = nodes.CLIPSetLastLayer().set_last_layer(clip, -2)
    return float((encoded(other, PROMPT)[0][0] - encoded(clip, PROMPT)[0][0]).abs().max())


def every_layer(engine):
    """A small random adapter on every layer with a matrix or a kernel."""
    generator = torch.Generator().manual_seed(5)
    tensors = {}
    for name, module in engine.unet.named_modules():
        if isinstance(module, torch.nn.Linear | torch.nn.Conv2d):
            out, into, *kernel = module.weight.shape
            key = lora_key(name)
            tensors[key + ".lora_down.weight"] = torch.randn(4, into, *kernel, generator=generator) * 0.05
            tensors[key + ".lora_up.weight"] = torch.randn(out, 4, *[1 for _ in kernel], generator=generator) * 0.05
            tensors[key + ".alpha"] = torch.tensor(4.0)
    return LoraWeights("every_layer", tensors)


def adapter(parts, engine, seen):
    model = parts[0]
    lora = every_layer(engine)
    layers = {key.split(".")[0] for key in lora.tensors}
    names = comfy.lora.model_lora_keys_unet(model.model, {})
    before, warned = digest(model.model.diffusion_model), len(seen.texts)
    patched, _ = comfy.sd.load_lora_for_models(model, None, dict(lora.tensors), 0.7, 0.0)
    x, when = torch.randn(1, 32, 16, 16, generator=torch.Generator().manual_seed(1)), torch.tensor([400])
    context = engine.encode_prompt(PROMPT).data
    with engine.patched(lora, 0.7):
        theirs = engine.unet(x, when, encoder_hidden_states=context).sample
    plain = engine.unet(x, when, encoder_hidden_states=context).sample
    comfy.model_management.load_models_gpu([patched])
    ours = patched.model.diffusion_model(x, when.float(), context=context)
    comfy.model_management.load_models_gpu([model])
    back = model.model.diffusion_model(x, when.float(), context=context)
    comfy.model_management.unload_all_models()
    return {
        "layers": len(layers),
        "unmatched": sorted(layers - set(names)),
        "patches": len(patched.patches),
        "warnings": seen.texts[warned:],
        "away": away(ours, theirs),
        "moved": away(theirs, plain),
        "away_without": away(back, plain),
        "weights_back": digest(model.model.diffusion_model) == before,
    }


def stock_nodes(parts, folder):
    model, clip, vae = parts
    folder_paths.set_output_directory(str(folder))
    folder_paths.set_input_directory(str(folder))
    (positive,) = nodes.CLIPTextEncode().encode(clip, PROMPT)
    (negative,) = nodes.ConditioningZeroOut().zero_out(positive)
    (empty,) = nodes.EmptyLatentImage().generate(SIZE, SIZE, 2)

    def sampled(model, latent, sampler="ddim", scheduler="simple", denoise=1.0, negative=negative):
        return nodes.KSampler().sample(
            model, SEEDS[0], STEPS, CFG, sampler, scheduler, positive, negative, latent, denoise
        )[0]

    first = sampled(model, empty)
    (images,) = nodes.VAEDecode().decode(vae, first)
    tiled = nodes.VAEDecodeTiled().decode(vae, first, 64, 16)[0]
    (again,) = nodes.VAEEncode().encode(vae, images)
    inpaint = nodes.VAEEncodeForInpaint().encode(vae, images, torch.ones(1, SIZE, SIZE))[0]
    healed = sampled(model, again, denoise=0.5)
    masked = sampled(model, inpaint)
    (x0,) = ModelSamplingDiscrete().patch(model, "x0", True)
    nodes.SaveLatent().save(first, "demo")
    saved = next(folder.glob("demo_*.latent"))
    (loaded,) = nodes.LoadLatent().load(saved.name)
    average = nodes.ConditioningAverage().addWeighted(positive, negative, 0.5)[0]
    concat = nodes.ConditioningConcat().concat(positive, positive)[0]
    return {
        "latent": list(first["samples"].shape),
        "images": list(images.shape),
        "tiled": float((tiled - images).abs().max()),
        "again": list(again["samples"].shape),
        "healed": sane(healed) and sane(masked),
        "x0_node": float((sampled(x0, empty)["samples"] - first["samples"]).abs().max()),
        "clone": float((sampled(model.clone(), empty)["samples"] - first["samples"]).abs().max()),
        "latent_file": float((loaded["samples"] - first["samples"]).abs().max()),
        "longer_context": list(concat[0][0].shape),
        "mixed": all(sane(sampled(model, empty, negative=other)) for other in (average, concat)),
    }


def sane(latent):
    return bool(torch.isfinite(latent["samples"]).all()) and float(latent["samples"].std()) > 0.1


def with_no_memory(parts, engine):
    """ComfyUI told to leave every weight where it lies and to bring it in layer by layer."""
    model, clip, vae = parts
    latent = vae.encode(torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(2)))
    context, decoded = engine.encode_prompt(PROMPT).data, vae.decode(latent)
    comfy.model_management.unload_all_models()
    patchers = (model, clip.patcher, vae.patcher)
    for patcher in patchers:
        patcher.patch_model(device_to=torch.device("cpu"), lowvram_model_memory=1)
    whole = [
        name
        for patcher in patchers
        for name, module in patcher.model.named_modules()
        if list(module.parameters(recurse=False)) and not getattr(module, "comfy_cast_weights", False)
    ]
    unet = max(noises_predicted(parts, engine))
    text = clip.cond_stage_model.encode_token_weights(clip.tokenize(PROMPT))[0]
    pixels = vae.first_stage_model.decode(latent).add(1.0).div(2.0).movedim(1, -1)
    for patcher in patchers:
        patcher.unpatch_model(torch.device("cpu"))
    away_most = max(unet, float((text - context).abs().max()), float((pixels - decoded).abs().max()))
    return {"layers_that_must_be_whole": whole, "away": away_most}


def samplers(parts, folder):
    """Mean brightness and spread of a picture of each; the pictures themselves are for the eye."""
    found = {}
    for sampler in ("ddim", "euler", "dpmpp_2m", "uni_pc"):
        for scheduler in ("simple", "sgm_uniform", "karras", "normal"):
            shown = picture(parts, SEEDS[0], sampler, scheduler)
            found[f"{sampler} {scheduler}"] = [float(shown.mean()), float(shown.std())]
            if folder is not None:
                Image.fromarray(shown).save(folder / f"{sampler}_{scheduler}.png")
    return found


def pictures(parts, engine, folder, name):
    theirs = embedded(engine)
    ours = [picture(parts, seed) for seed in SEEDS]
    if folder is not None:
        rows = [np.concatenate(row, axis=1) for row in (ours, theirs)]
        Image.fromarray(np.concatenate(rows)).save(folder / f"{name}.png")
    apart = np.abs(np.stack(ours).astype(int) - np.stack(theirs).astype(int))
    return {"mean": float(apart.mean()), "widest": int(apart.max()), "spread": float(np.stack(theirs).std())}


def refusals(folder):
    def told(look, place):
        try:
            load_demo(look, place)
        except CheckpointError as error:
            return str(error)
        return ""

    def copy(name, change):
        place = folder / name
        place.mkdir()
        for file in (BASE, LOOKS["film"]):
            shutil.copy(ASSETS / file, place / file)
        change(place)
        return place

    def cut(name):
        def change(place):
            (place / name).write_bytes((ASSETS / name).read_bytes()[:-1000])

        return change

    def hole(place):
        from safetensors.torch import load_file, save_file

        state = load_file(place / BASE)
        state.pop("unet.conv_in.weight")
        save_file(state, place / BASE, metadata=demo_base.read_demo_file(ASSETS / BASE).metadata)

    def other_look(place):
        from safetensors.torch import save_file

        pair = {"lora_down": torch.zeros(1, 4), "lora_up": torch.zeros(4, 1)}
        save_file({f"lora_unet_elsewhere.{k}.weight": v for k, v in pair.items()}, place / LOOKS["film"])

    return {
        "look": told("noir", ASSETS),
        "no base": told("studio", folder / "nowhere"),
        "cut base": told("studio", copy("a", cut(BASE))),
        "hole": told("studio", copy("b", hole)),
        "no look": told("film", copy("c", lambda place: (place / LOOKS["film"]).unlink())),
        "cut look": told("film", copy("d", cut(LOOKS["film"]))),
        "other look": told("film", copy("e", other_look)),
    }


@torch.inference_mode()
def main(folder):
    seen = Warned()
    logging.getLogger().addHandler(seen)
    studio, film = load_demo(), load_demo("film")
    loading = list(seen.texts)
    studio_engine = open_demo_base(ASSETS / BASE)
    film_engine = open_demo_base(ASSETS / BASE, look=ASSETS / LOOKS["film"])
    fresh = {"studio": digests(studio), "film": digests(film)}
    with tempfile.TemporaryDirectory() as scratch:
        found = {
            "kinds": [
                isinstance(studio[0], comfy.model_patcher.ModelPatcher),
                isinstance(studio[1], comfy.sd.CLIP),
                isinstance(studio[2], comfy.sd.VAE),
            ],
            "dtypes": sorted({str(w.dtype) for part in studio[:1] for w in part.model.state_dict().values()}),
            "warnings_loading": loading,
            "unet": {
                "studio": noises_predicted(studio, studio_engine),
                "film": noises_predicted(film, film_engine),
                "looks_apart": noises_predicted(film, studio_engine),
            },
            "levels": noise_levels(studio, studio_engine),
            "codec": codec(studio, studio_engine),
            "text": text(studio, studio_engine),
            "adapter": adapter(studio, studio_engine, seen),
            "nodes": stock_nodes(studio, Path(scratch)),
            "with_no_memory": with_no_memory(studio, studio_engine),
            "pictures": {
                "studio": pictures(studio, studio_engine, folder, "studio"),
                "film": pictures(film, film_engine, folder, "film"),
            },
            "samplers": samplers(studio, folder),
            "refusals": refusals(Path(scratch)),
        }
    found["same_after"] = digests(studio) == fresh["studio"] and digests(film) == fresh["film"]
    found["same_twice"] = digests(load_demo("film")) == fresh["film"] and digests(load_demo()) == fresh["studio"]
    found["looks_differ"] = [a != b for a, b in zip(fresh["studio"], fresh["film"], strict=True)]
    found["warnings"] = seen.texts
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]) if len(sys.argv) > 1 else None)))
