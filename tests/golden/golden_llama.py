"""Writes the golden files of Llama: small models, and what transformers' LlamaForCausalLM gives in float64.

    python golden_llama.py

Everything but the model is golden.py's; a model without routers needs no search for batches away from ties, and its
files hold no bf16_error: bfloat16 is held to the general limits, which the script checks torch's own run against.
"""
import types

import torch
import transformers

import golden

COMMON = dict(
    architectures=["LlamaForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=0,
    eos_token_id=1,
    hidden_act="silu",
    initializer_range=0.02,
    max_position_embeddings=512,
    mlp_bias=False,
    model_type="llama",
    pretraining_tp=1,
    use_cache=True,
)
CASES = {
    "llama": dict(
        batch=(3, 23), embed_scale=0.8, scale=0.8, seed=0,
        config=dict(
            vocab_size=104, hidden_size=48, num_hidden_layers=3, num_attention_heads=6, num_key_value_heads=2,
            head_dim=16, intermediate_size=56, rms_norm_eps=1e-3, tie_word_embeddings=False,
            torch_dtype="bfloat16", rope_theta=1000.0,
            rope_scaling=dict(rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
                              original_max_position_embeddings=64))),
    "llama_tied": dict(
        batch=(2, 31), embed_scale=0.06, scale=0.2, seed=1,
        config=dict(
            vocab_size=120, hidden_size=40, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5,
            intermediate_size=72, rms_norm_eps=1e-6, tie_word_embeddings=True, torch_dtype="float32",
            rope_theta=10000.0, rope_scaling=None)),
}
FLOAT32 = dict(logits=2e-6, grad=1e-5, other=1e-6)
BFLOAT16 = dict(logits=3e-2, grad=5e-2, other=5e-3, grad_norm=2e-2)  # doc/formats/reference.md


def config_class(rope_theta, rope_scaling, attn_implementation, **config):
    """Newer releases of transformers want rope_theta and rope_scaling in one object."""
    rope = dict(rope_scaling or dict(rope_type="default"), rope_theta=rope_theta)
    return transformers.LlamaConfig(**config, rope_parameters=rope, attn_implementation=attn_implementation)


def check(found, wide, limits, what):
    e = golden.errors(found, wide)
    print(f"  {what}: {golden.worst(e)}")
    for k, x in e.items():
        kind = next((kind for kind in limits if k.startswith(kind)), "other")
        kind = "grad_norm" if k.startswith("grad_norm") and "grad_norm" in limits else kind
        assert x < limits[kind], (k, x)


def check_files(name):
    """The library's own loader, from the files as they are: names, types, tying and every field of config.json."""
    model, info = transformers.LlamaForCausalLM.from_pretrained(
        golden.HERE / name, attn_implementation="eager", dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    stored = golden.load_file(golden.HERE / name / "reference.safetensors")
    assert {f"grad.{n}" for n, _ in model.named_parameters()} == {k for k in stored if k.startswith("grad.")}
    out = model(input_ids=stored["input_ids"][0].long(), use_cache=False)
    assert (out.logits - stored["logits"]).abs().max() < 2e-5 * stored["logits"].abs().max()


def main():
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    reference = config_class, types.SimpleNamespace(DeepseekV2ForCausalLM=transformers.LlamaForCausalLM)
    for name, case in CASES.items():
        config = dict(sorted({**COMMON, **case["config"]}.items()))
        generator = torch.Generator().manual_seed(case["seed"])
        with golden.reference_model.Float64():
            model, _ = golden.build(reference, config, None, torch.float64)
        weights = golden.random_weights(model, case, generator)
        batches = torch.randint(config["vocab_size"], (golden.STEPS, *case["batch"]), generator=generator)
        found, _ = golden.run(reference, config, weights, batches, torch.float64)
        print(f"{name}: loss {found['loss'].item():.6f}, grad_norm {found['grad_norm'].tolist()}")
        for dtype, limits in (torch.float32, FLOAT32), (torch.bfloat16, BFLOAT16):
            check(golden.run(reference, config, weights, batches, dtype)[0], found, limits, str(dtype))
        golden.check_differences(reference, config, weights, batches, found)
        print(f"  {golden.write(name, config, weights, batches, found, {})} bytes")
        check_files(name)


if __name__ == "__main__":
    main()
