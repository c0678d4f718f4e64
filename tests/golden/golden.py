"""Writes the golden files of `moec check`: small models, and what the reference code gives in float64.

    python golden.py --modeling DIR [--only NAME]

DIR holds the reference code (see README.md). Every directory gets config.json, model.safetensors and
reference.safetensors; yarn.txt gets the rotary constants of DeepSeek-V2-Lite. The script fails unless the
gradients agree with finite differences, the same run in float32 stays close, and no routing decision
is nearly a tie.
"""
import argparse
import contextlib
import json
import math
import pathlib

import torch
from safetensors.torch import load_file, save_file

import reference_model

HERE = pathlib.Path(__file__).parent
STEPS = 5
MIN_GAP = 1e-4  # between the last chosen and the first rejected probability: far above float32's rounding

COMMON = dict(
    architectures=["DeepseekV2ForCausalLM"],
    attention_bias=False,
    attention_dropout=0.0,
    auto_map={
        "AutoConfig": "configuration_deepseek.DeepseekV2Config",
        "AutoModel": "modeling_deepseek.DeepseekV2Model",
        "AutoModelForCausalLM": "modeling_deepseek.DeepseekV2ForCausalLM",
    },
    bos_token_id=0,
    eos_token_id=1,
    ep_size=1,
    hidden_act="silu",
    initializer_range=0.02,
    max_position_embeddings=512,
    model_type="deepseek_v2",
    pad_token_id=None,
    pretraining_tp=1,
    rope_theta=10000.0,
    scoring_func="softmax",
    transformers_version="4.40.0",
    use_cache=True,
)


def yarn(**fields):
    return dict(type="yarn", **fields)


# Each case covers branches that the others do not; README.md has the table. B and S are those of one batch.
CASES = {
    "v2lite": dict(
        batch=(3, 23), embed_scale=0.8, scale=0.8, gate_scale=1.5, empty_expert=False,
        config=dict(
            vocab_size=160, hidden_size=40, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            intermediate_size=56, moe_intermediate_size=24, q_lora_rank=None, kv_lora_rank=20,
            qk_nope_head_dim=8, qk_rope_head_dim=16, v_head_dim=12, n_routed_experts=8, num_experts_per_tok=3,
            n_shared_experts=2, first_k_dense_replace=1, moe_layer_freq=1, topk_method="greedy", n_group=1,
            topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, aux_loss_alpha=0.02, seq_aux=True,
            rms_norm_eps=1e-6, tie_word_embeddings=False,
            torch_dtype="float32",
            rope_scaling=yarn(factor=40, beta_fast=8, beta_slow=1, mscale=0.9, mscale_all_dim=0.7,
                              original_max_position_embeddings=256))),
    "v2": dict(
        batch=(3, 19), embed_scale=0.8, scale=0.8, gate_scale=1.5, empty_expert=False,
        config=dict(
            vocab_size=144, hidden_size=32, num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
            intermediate_size=44, moe_intermediate_size=20, q_lora_rank=24, kv_lora_rank=16,
            qk_nope_head_dim=12, qk_rope_head_dim=8, v_head_dim=12, n_routed_experts=12,
            num_experts_per_tok=3, n_shared_experts=1, first_k_dense_replace=1, moe_layer_freq=1,
            topk_method="group_limited_greedy",
            n_group=4, topk_group=2, norm_topk_prob=False, routed_scaling_factor=2.5, aux_loss_alpha=0.03,
            seq_aux=False, rms_norm_eps=1e-3, tie_word_embeddings=False, torch_dtype="bfloat16",
            rope_theta=1000.0,
            rope_scaling=yarn(factor=8, beta_fast=4, beta_slow=1, mscale=0.707, mscale_all_dim=0.707,
                              original_max_position_embeddings=64))),
    "v2norm": dict(
        batch=(2, 17), embed_scale=0.8, scale=0.8, gate_scale=3.0, empty_expert=True,
        config=dict(
            vocab_size=112, hidden_size=24, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=36, moe_intermediate_size=16, q_lora_rank=None, kv_lora_rank=12,
            qk_nope_head_dim=8, qk_rope_head_dim=12, v_head_dim=16, n_routed_experts=16,
            num_experts_per_tok=2, n_shared_experts=None, first_k_dense_replace=1, moe_layer_freq=2,
            topk_method="greedy", n_group=None, topk_group=None, norm_topk_prob=True,
            routed_scaling_factor=1.7, aux_loss_alpha=0.05, seq_aux=True, rms_norm_eps=1e-3,
            tie_word_embeddings=False, torch_dtype="float32",
            rope_scaling=yarn(factor=4, beta_fast=4, beta_slow=1, mscale=1.0, mscale_all_dim=0,
                              original_max_position_embeddings=64))),
    "dense": dict(
        batch=(6, 29), embed_scale=0.1, scale=0.25, gate_scale=1.0, empty_expert=False,
        config=dict(
            vocab_size=150, hidden_size=36, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=3,
            intermediate_size=70, moe_intermediate_size=20, q_lora_rank=None, kv_lora_rank=14,
            qk_nope_head_dim=10, qk_rope_head_dim=6, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2,
            n_shared_experts=1, first_k_dense_replace=2, moe_layer_freq=1, topk_method="greedy", n_group=1,
            topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, aux_loss_alpha=0.001, seq_aux=True,
            rms_norm_eps=1e-6, tie_word_embeddings=True, torch_dtype="float32",
            rope_scaling=None)),
}


class Gates:
    """What the routers of one forward pass decided: aux losses, rows per expert, smallest gap to a tie."""

    def __init__(self, model):
        self.aux, self.rows, self.gap = [], [], math.inf
        for module in model.modules():
            if type(module).__name__ == "MoEGate":
                module.register_forward_hook(self._after)

    def reset(self):
        self.aux, self.rows = [], []

    def _after(self, gate, inputs, output):
        index, _, aux = output
        self.aux.append(aux)
        self.rows.append(torch.bincount(index.flatten(), minlength=gate.n_routed_experts))
        with torch.no_grad():
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            self._note_gap(gate, (x @ gate.weight.to(x.dtype).T).softmax(-1))

    def _note_gap(self, gate, p):
        if gate.topk_method == "group_limited_greedy":
            by_group = p.view(p.shape[0], gate.n_group, -1)
            best = by_group.amax(-1)
            kept = best >= best.topk(gate.topk_group).values[:, -1:]
            self._gap_after(best, gate.topk_group)
            p = (by_group * kept.unsqueeze(-1)).flatten(1)
        self._gap_after(p, gate.top_k)

    def _gap_after(self, p, k):
        ordered = p.sort(-1, descending=True).values
        if k < p.shape[-1]:
            self.gap = min(self.gap, (ordered[:, k - 1] - ordered[:, k]).min().item())


def full_config(case):
    return dict(sorted({**COMMON, **case["config"]}.items()))


def random_weights(model, case, generator):
    """Larger than the usual initialisation, so that every branch shows; exact in the stored type."""
    stored = getattr(torch, case["config"]["torch_dtype"])
    weights = {}
    for name, p in model.named_parameters():
        noise = torch.randn(p.shape, generator=generator, dtype=torch.float64)
        if name.endswith("norm.weight"):
            value = 1 + 0.1 * noise
        elif name.endswith("embed_tokens.weight"):
            value = case["embed_scale"] * noise
        else:
            gain = case["gate_scale"] if name.endswith("gate.weight") else case["scale"]
            value = gain / math.sqrt(p.shape[-1]) * noise
        weights[name] = value.to(stored)
    return weights


def build(reference, config, weights, dtype):
    config_class, modeling = reference
    model = modeling.DeepseekV2ForCausalLM(config_class(**config, attn_implementation="eager"))
    model = model.to(dtype).train()
    if weights is not None:
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.copy_(weights[name].to(dtype))
    return model, Gates(model)


def forward(model, gates, ids):
    """Mean cross-entropy over the shifted targets, logits, and the balancing loss of each MoE layer."""
    gates.reset()
    out = model(input_ids=ids, labels=ids, use_cache=False)
    return out.loss, out.logits, list(gates.aux)


def train(model, gates, batches):
    """Losses and gradient norms (before clipping) of AdamW steps, one batch each; the model is changed."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    losses, norms = [], []
    for ids in batches:
        optimizer.zero_grad()
        loss, _, _ = forward(model, gates, ids)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    return losses, norms


def run(reference, config, weights, batches, wide):
    """What reference.safetensors holds, in double precision or (wide false) as the code runs by itself."""
    dtype = torch.float64 if wide else torch.float32
    with reference_model.Float64() if wide else contextlib.nullcontext():
        model, gates = build(reference, config, weights, dtype)
        loss, logits, aux = forward(model, gates, batches[0])
        loss.backward()
        found = {"logits": logits.detach(), "loss": loss.detach().reshape(1)}
        found |= {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
        if aux:
            found["aux"] = torch.stack(aux).detach()
        rows = list(gates.rows)
        losses, norms = train(model, gates, batches)
    found["train_loss"] = torch.tensor(losses, dtype=torch.float64)
    found["grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    return found, gates.gap, rows


def search(reference, case):
    """The first seed whose routing is nowhere near a tie in any step; empty_expert: one gets no rows."""
    config = full_config(case)
    for seed in range(1000):
        generator = torch.Generator().manual_seed(seed)
        with reference_model.Float64():
            model, _ = build(reference, config, None, torch.float64)
        weights = random_weights(model, case, generator)
        batches = torch.randint(case["config"]["vocab_size"], (STEPS, *case["batch"]), generator=generator)
        found, gap, rows = run(reference, config, weights, batches, wide=True)
        empty = any((r == 0).any() for r in rows)
        if gap > MIN_GAP and empty == case["empty_expert"]:
            return seed, weights, batches, found, gap, rows
    raise SystemExit("no seed below 1000 keeps all routing decisions away from ties")


def relative(a, b):
    norm = b.double().norm().item()
    return (a.double() - b.double()).norm().item() / norm if norm else a.double().norm().item()


def check_float32(reference, config, weights, batches, found):
    """The code as it is, in float32, must stay well inside the tolerances that moec is held to."""
    plain, _, _ = run(reference, config, weights, batches, wide=False)
    logits = (plain["logits"] - found["logits"]).abs().max() / found["logits"].abs().max()
    grads = max(relative(plain[k], found[k]) for k in found if k.startswith("grad."))
    losses = max(((plain[k] - found[k]) / found[k]).abs().max().item() for k in ("loss", "train_loss"))
    norms = ((plain["grad_norm"] - found["grad_norm"]) / found["grad_norm"]).abs().max().item()
    print(f"  float32 run of the same code: logits {logits:.1e}, worst gradient {grads:.1e}, "
          f"losses {losses:.1e}, norms {norms:.1e}")
    assert 0 < logits < 2e-5 and grads < 5e-5 and losses < 5e-6 and norms < 5e-5


def check_differences(reference, config, weights, batches, found):
    """Central differences of (mean loss + aux) along one direction per tensor, against the gradients."""
    generator = torch.Generator().manual_seed(1)
    worst, step = 0.0, 1e-5
    with reference_model.Float64(), torch.no_grad():
        model, gates = build(reference, config, weights, torch.float64)

        def total():
            loss, _, aux = forward(model, gates, batches[0])
            return (loss + sum(aux)).item()

        for name, p in model.named_parameters():
            grad = found[f"grad.{name}"]
            spread = grad.norm() / math.sqrt(p.numel()) + 1e-300
            d = torch.randn(p.shape, generator=generator) + 2 * grad / spread
            d /= d.norm()
            original = p.clone()
            high = (p.copy_(original + step * d), total())[1]
            low = (p.copy_(original - step * d), total())[1]
            p.copy_(original)
            expected = (grad * d).sum().item()
            worst = max(worst, abs((high - low) / (2 * step) - expected) / max(abs(expected), 1e-3))
        assert gates.gap > MIN_GAP / 2
    print(f"  central differences against gradients, worst tensor: {worst:.1e} relative")
    assert worst < 1e-7


def write_reference(path, batches, found):
    wide = {"loss", "aux", "train_loss", "grad_norm"}
    tensors = {k: v if k in wide else v.float().contiguous() for k, v in found.items()}
    tensors["input_ids"] = batches.to(torch.int32)
    save_file(tensors, path)
    path.chmod(0o644)


def write(name, config, weights, batches, found):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stored = getattr(torch, config["torch_dtype"])
    assert all(w.dtype == stored for w in weights.values())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_reference(folder / "reference.safetensors", batches, found)
    return sum(f.stat().st_size for f in folder.iterdir())


def check_files(name, reference):
    """Reads the weights back through the library's own loader: names, types and tying are a real model's."""
    config_class, modeling = reference
    config = config_class.from_pretrained(HERE / name)
    model, info = modeling.DeepseekV2ForCausalLM.from_pretrained(
        HERE / name, config=config, attn_implementation="eager", torch_dtype=torch.float32,
        output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"], info
    stored = load_file(HERE / name / "reference.safetensors")
    assert {f"grad.{n}" for n, _ in model.named_parameters()} == {k for k in stored if k.startswith("grad.")}
    out = model.train()(input_ids=stored["input_ids"][0].long(), use_cache=False)
    assert (out.logits - stored["logits"]).abs().max() < 2e-5 * stored["logits"].abs().max()


def write_yarn(reference):
    """Rotary constants of DeepSeek-V2-Lite's own config."""
    config_class, modeling = reference
    scaling = yarn(factor=40, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707,
                   original_max_position_embeddings=4096)
    with reference_model.Float64():
        config = config_class(hidden_size=64, num_attention_heads=16, q_lora_rank=None, kv_lora_rank=512,
                              qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, rope_theta=10000.0,
                              rope_scaling=scaling, max_position_embeddings=2)
        attention = modeling.DeepseekV2Attention(config, layer_idx=0)
    rotary = attention.rotary_emb
    lines = ["# DeepSeek-V2-Lite: pair, inverse frequency; then the factor on cos and sin, the softmax scale"]
    lines += [f"{i} {f:.17g}" for i, f in enumerate(rotary.inv_freq.tolist())]
    lines += [f"multiplier {rotary.cos_cached[0, 0].item():.17g}"]
    lines += [f"softmax_scale {attention.softmax_scale:.17g}"]
    (HERE / "yarn.txt").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modeling", required=True, help="directory of the reference code")
    parser.add_argument("--only", choices=CASES, help="write this case alone")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    reference = reference_model.load(args.modeling)
    write_yarn(reference)
    for name, case in CASES.items() if not args.only else [(args.only, CASES[args.only])]:
        config = full_config(case)
        seed, weights, batches, found, gap, rows = search(reference, case)
        print(f"{name}: seed {seed}, smallest gap {gap:.1e}, loss {found['loss'].item():.6f}, "
              f"aux {[round(a, 6) for a in found.get('aux', torch.zeros(0)).tolist()]}")
        print(f"  train_loss {[round(x, 5) for x in found['train_loss'].tolist()]}, "
              f"grad_norm {[round(x, 5) for x in found['grad_norm'].tolist()]}")
        print(f"  rows per expert of batch 0: {[r.tolist() for r in rows]}")
        check_float32(reference, config, weights, batches, found)
        check_differences(reference, config, weights, batches, found)
        print(f"  {write(name, config, weights, batches, found)} bytes")
        check_files(name, reference)


if __name__ == "__main__":
    main()
