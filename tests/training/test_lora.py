"""The adapter: it learns in float32, keeps its function at an alpha switch, and leaves the model as it was."""

import pytest
import torch
from torch import nn

from identity_lock.engines.diffusers import lora_key
from identity_lock.engines.lora_file import DOWN, UP
from identity_lock.errors import TrainingError
from identity_lock.tests.engines.test_diffusers_engine import fingerprint
from identity_lock.tests.fixtures.tiny_engine import tiny_engine
from identity_lock.training.lora import Adapter, adapted, target_modules
from identity_lock.training.optimizers import make_optimizer

OPTIONS = dict(rank=4, alpha=8.0, targets="all", seed=3)
X = torch.randn(2, 32, 8, 8, generator=torch.Generator().manual_seed(0))
T = torch.tensor([100, 700])


def output(engine, denoiser):
    with torch.no_grad():
        return denoiser.predict(X, T, [engine.encode_prompt("photo of a woman")] * 2)


def learn(engine, denoiser, adapter, *, optimizer="adamw", lr=1e-2, steps=3):
    """A few real steps towards a fixed target."""
    made = make_optimizer(optimizer, adapter.parameters(), lr)
    for _ in range(steps):
        conditioning = [engine.encode_prompt("photo of a woman")] * 2
        (denoiser.predict(X, T, conditioning) - X).square().mean().backward()
        made.step()
        made.zero_grad()
    return made


# ---- alpha ---------------------------------------------------------------------------------------------------------


def test_switching_alpha_8_4_2_1_leaves_the_function_as_it_was(engine):
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS) as adapter:
        plain = output(engine, denoiser)
        learn(engine, denoiser, adapter)
        learned = output(engine, denoiser)
        learned_much = (learned - plain).abs().max()
        assert learned_much > 0.05
        for alpha in (4.0, 2.0, 1.0):
            up = adapter.state()["conv_out.up"]
            adapter.set_alpha(alpha)
            close = 1e-6 * float(learned.abs().max())
            torch.testing.assert_close(output(engine, denoiser), learned, atol=close, rtol=0)
            torch.testing.assert_close(adapter.state()["conv_out.up"], up * 2)
        # not because the scale is ignored: alpha halved without rescaling B moves the function by half
        for layer in adapter._layers.values():
            layer.scaling["identity"] /= 2
        assert (output(engine, denoiser) - learned).abs().max() > 0.2 * learned_much


def test_the_exported_weights_and_the_measured_change_do_not_depend_on_alpha(engine):
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS) as adapter:
        learn(engine, denoiser, adapter)
        before, moved = adapter.export("x", {}).tensors, adapter.relative_change()
        adapter.set_alpha(1.0)
        after = adapter.export("x", {}).tensors
        assert adapter.relative_change() == pytest.approx(moved, rel=1e-5) and moved > 1e-3
    assert all(torch.allclose(before[key], after[key]) for key in before)


def test_a_state_put_back_under_another_alpha_is_the_same_function(engine):
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS) as adapter:
        learn(engine, denoiser, adapter)
        state, wanted = adapter.state(), output(engine, denoiser)
        adapter.set_alpha(2.0)
        learn(engine, denoiser, adapter)
        assert not torch.allclose(output(engine, denoiser), wanted, atol=1e-3)
        adapter.load_state(state, 8.0)
        assert torch.equal(output(engine, denoiser), wanted) and adapter.alpha == 8.0


# ---- precision -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("optimizer", ["adamw", "adamp"])
def test_weights_and_moments_are_float32_on_a_half_precision_base_and_the_last_phases_updates_arrive(dtype, optimizer):
    engine = tiny_engine(dtype=dtype)
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS) as adapter:
        before = adapter.state()
        made = learn(engine, denoiser, adapter, optimizer=optimizer, lr=5e-7, steps=2)
        after = adapter.state()
        assert {p.dtype for p in adapter.parameters()} == {torch.float32}
        moments = [v for state in made.state.values() for v in state.values() if torch.is_tensor(v) and v.ndim]
        assert len(moments) == 2 * len(adapter.parameters()) and {m.dtype for m in moments} == {torch.float32}
        assert {p.dtype for n, p in denoiser.module.named_parameters() if "lora_" not in n} == {dtype}
        # in bf16 an update of 5e-7 on a weight of 0.05 is rounded away: nearly every A would stand still
        downs = [key for key in before if key.endswith(".down")]
        second = learn(engine, denoiser, adapter, optimizer=optimizer, lr=5e-7, steps=1)
        assert second is not None
        still = sum(int((before[k] == adapter.state()[k]).sum()) for k in downs) / sum(before[k].numel() for k in downs)
        assert still < 0.3
        assert after["conv_in.down"].dtype == torch.float32


# ---- which layers --------------------------------------------------------------------------------------------------


def test_attention_takes_the_projections_and_all_takes_the_rest_but_the_time_embedding(engine):
    attention, everything = (set(target_modules(engine.unet, which)) for which in ("attention", "all"))
    assert {name.split("attn")[1][2:] for name in attention} == {"to_q", "to_k", "to_v", "to_out.0"}
    assert attention < everything and not any("time_embedding" in name for name in everything)
    assert {"conv_in", "mid_block.resnets.0.conv1", "mid_block.resnets.0.time_emb_proj"} <= everything
    assert any(".ff.net." in name for name in everything) and any("proj_in" in name for name in everything)


def test_only_the_named_layers_get_an_adapter(engine):
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS | {"targets": "attention"}) as adapter:
        injected = {n for n, m in denoiser.module.named_modules() if hasattr(m, "get_base_layer")}
        assert injected == set(adapter._layers)
        trained = [n for n, p in denoiser.module.named_parameters() if p.requires_grad]
        assert trained and all("lora_" in name for name in trained)
    assert injected == set(target_modules(engine.unet, "attention"))


def test_a_model_without_such_layers_is_refused():
    with pytest.raises(TrainingError, match="no layer that a LoRA could adapt"):
        target_modules(nn.Sequential(nn.BatchNorm2d(3)), "all")


def test_the_start_depends_on_the_seed_alone(engine):
    states = []
    for noise, seed in ((1, 3), (2, 3), (2, 4)):
        torch.manual_seed(noise)
        with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS | {"seed": seed}) as adapter:
            states.append(adapter.state())
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(noise)))
    assert all(torch.equal(states[0][k], states[1][k]) for k in states[0])
    assert not torch.equal(states[0]["conv_in.down"], states[2]["conv_in.down"])
    assert all(not states[0][k].any() for k in states[0] if k.endswith(".up"))  # so the run begins at the base model


# ---- nothing left behind -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets", ["attention", "all"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_module_is_bit_identical_afterwards(dtype, targets):
    engine = tiny_engine(dtype=dtype)
    engine.unet.conv_in.weight.requires_grad_(True)  # as a host may have left it
    before, root = fingerprint(engine.unet), set(vars(engine.unet))
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS | {"targets": targets}) as adapter:
        assert fingerprint(engine.unet) != before
        learn(engine, denoiser, adapter)
    assert fingerprint(engine.unet) == before and set(vars(engine.unet)) == root
    assert not [name for name, _ in engine.unet.named_modules() if "lora" in name or "base_layer" in name]
    assert not any("peft" in type(m).__module__ for m in engine.unet.modules())


def test_it_is_bit_identical_also_when_training_breaks(engine):
    before = fingerprint(engine.unet)
    with pytest.raises(KeyboardInterrupt), engine.trainable() as denoiser, adapted(denoiser, **OPTIONS):
        raise KeyboardInterrupt
    assert fingerprint(engine.unet) == before


def test_it_is_bit_identical_also_when_the_layers_cannot_all_be_put_in(engine):
    """PEFT refuses a grouped convolution whose groups do not divide the rank, after it has taken in earlier layers."""
    engine.unet.conv_out = nn.Conv2d(32, 32, 3, padding=1, groups=8).requires_grad_(False).eval()
    before = fingerprint(engine.unet)
    with (
        pytest.raises(TrainingError, match="could not be put into this model"),
        engine.trainable() as denoiser,
        adapted(denoiser, **OPTIONS | {"rank": 3}),
    ):
        pass
    assert fingerprint(engine.unet) == before
    assert "peft_config" not in vars(engine.unet)


# ---- export --------------------------------------------------------------------------------------------------------


def test_the_export_holds_a_pair_for_each_layer_with_the_scale_folded_in(engine):
    with engine.trainable() as denoiser, adapted(denoiser, **OPTIONS) as adapter:
        learn(engine, denoiser, adapter)
        lora, state = adapter.export("x", {"a": "b"}), adapter.state()
        half = adapter.export("x", {}, torch.float16)
    stems = {key for key, *_ in lora.modules()}
    assert stems == {lora_key(name) for name in target_modules(engine.unet, "all")}
    assert len(lora.tensors) == 3 * len(stems)
    assert torch.equal(lora.tensors["lora_unet_conv_out" + UP], state["conv_out.up"] * 2.0)  # alpha 8, rank 4
    assert torch.equal(lora.tensors["lora_unet_conv_out" + DOWN], state["conv_out.down"])
    assert all(scale == 1.0 for *_, scale in lora.modules()) and lora.metadata == {"a": "b"}
    assert half.tensors["lora_unet_conv_out" + UP].dtype == torch.float16


def test_the_adapter_in_the_module_and_the_exported_file_are_one_function(engine):
    with engine.trainable() as denoiser:
        adapter = Adapter(denoiser, **OPTIONS)
        learn(engine, denoiser, adapter)
        adapter.set_alpha(2.0)
        with_adapter, lora = output(engine, denoiser), adapter.export("x", {})
        adapter.eject()
        plain = output(engine, denoiser)
        with engine.patched(lora, 1.0):
            with_file = output(engine, denoiser)
    assert (with_adapter - plain).abs().max() > 0.05
    torch.testing.assert_close(with_file, with_adapter, atol=1e-5 * float(with_adapter.abs().max()), rtol=0)
