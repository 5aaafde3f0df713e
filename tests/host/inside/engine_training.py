"""Training on a wired MODEL. engine_training.py demo|CHECKPOINT attention|all [eps|v_prediction|x0|flow]"""

import hashlib
import json
import sys

from engine_models import Logged, apart, opened, request

# isort: split

import comfy.sd
import torch
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete, ModelSamplingSD3

from identity_lock.engines.comfy import ComfyEngine, weights_sha256
from identity_lock.engines.lora_file import LoraWeights
from identity_lock.errors import RenderError, TrainingError
from identity_lock.training.lora import adapted

KINDS = {"v_prediction": "v_prediction", "x0": "x0"}


def digest(model):
    whole = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        whole.update(name.encode() + tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def with_kind(model, kind):
    if kind in KINDS:
        return ModelSamplingDiscrete().patch(model, KINDS[kind], False)[0]
    return ModelSamplingSD3().patch(model, 3.0)[0] if kind == "flow" else model


def main(which, targets, kind="eps"):
    model, clip, vae = opened(which)
    model = with_kind(model, kind)
    found = {}
    with torch.inference_mode():
        engine = ComfyEngine(model, clip, vae)
        base = model.model
        unet = base.diffusion_model
        hashes, objects = (digest(unet), weights_sha256(model)), [id(p) for p in base.parameters()]
        modes = [p.requires_grad for p in base.parameters()]
        few = dict(seeds=(1, 2), steps=3)
        before = engine.sample(request(engine, **few)).latents
        found["losses"], lora, learned = trained(engine, targets, few, checkpointed=False)
        found["losses_checkpointed"] = trained(engine, targets, few, checkpointed=True)[0] if kind == "eps" else None
        found["untouched"] = (
            hashes == (digest(unet), weights_sha256(model))
            and objects == [id(p) for p in base.parameters()]
            and modes == [p.requires_grad for p in base.parameters()]
            and not [name for name, _ in base.named_modules() if "lora" in name]
        )
        found["inference_mode_again"] = torch.is_inference_mode_enabled()
        found["prediction"] = engine.card.prediction
        found["same_sample_afterwards"] = torch.equal(before, engine.sample(request(engine, **few)).latents)
        logged = Logged()
        patched = engine.sample(request(engine, lora=lora, **few)).latents
        found["warnings"] = list(logged.texts)
        found["lora_against_module"] = apart(patched, learned)
        found["effect"] = apart(learned, before)
        stock, _ = comfy.sd.load_lora_for_models(model, None, dict(lora.tensors), 1.0, 0.0)
        found["patched_layers"] = len(stock.patches) - len(model.patches)
        found["adapted_layers"] = len(list(lora.modules()))
        found["hash_while_patched"] = weights_sha256(model) == hashes[1]
        found["variants"] = len({ComfyEngine(m, clip, vae).card.variant for m in (model, stock)})
        found["unpatched_again"] = torch.equal(before, engine.sample(request(engine, **few)).latents)
        found["refused"] = {"lora": refused_lora(engine), "float8": refused_float8(engine)}
    print(json.dumps(found))


def trained(engine, targets, few, *, checkpointed):
    """Four steps; the losses, the LoRA, and what the module with its adapter samples."""
    prompts = [engine.encode_prompt("photo of sks person"), engine.encode_prompt("")]
    generator = torch.Generator().manual_seed(0)
    with engine.trainable() as denoiser:
        if checkpointed:
            denoiser.checkpoint_gradients()
        with adapted(denoiser, rank=4, alpha=4.0, targets=targets, seed=0) as adapter:
            optimizer = torch.optim.AdamW(adapter.parameters(), lr=2e-3)
            z = torch.randn((2, engine._format.latent_channels, 16, 16), generator=generator)
            eps = torch.randn(z.shape, generator=generator)
            t = torch.tensor([300, 700])
            losses = []
            for _ in range(4):
                output = denoiser.predict(denoiser.rule.add_noise(z, eps, t), t, prompts)
                loss = (output - denoiser.rule.target(z, eps, t)).square().mean()
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                losses.append(float(loss.detach()))
            learned = engine.sample(request(engine, **few)).latents
            return losses, adapter.export("trained", {}), learned


def refused_lora(engine):
    stranger = LoraWeights("stranger", {"lora_unet_nowhere.lora_down.weight": torch.zeros(1, 1),
                                        "lora_unet_nowhere.lora_up.weight": torch.zeros(1, 1)})  # fmt: skip
    try:
        engine.sample(request(engine, lora=stranger))
    except RenderError as error:
        return str(error)
    return None


def refused_float8(engine):
    layer = next(m for m in engine._model.model.diffusion_model.modules() if isinstance(m, torch.nn.Linear))
    kept = layer.weight
    layer.weight = torch.nn.Parameter(kept.to(torch.float8_e4m3fn), requires_grad=False)
    try:
        with engine.trainable():
            return None
    except TrainingError as error:
        return str(error)
    finally:
        layer.weight = kept


if __name__ == "__main__":
    main(*sys.argv[1:])
