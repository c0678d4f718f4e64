"""Writes the golden files of `moec check`: small models, what the reference code gives in float64, and how far
its own runs in bfloat16 are from that.

    python golden.py --modeling DIR [--only NAME] [--bf16_only]

DIR holds the reference code (see README.md). Every directory gets config.json, model.safetensors and
reference.safetensors; yarn.txt gets the rotary constants of DeepSeek-V2-Lite. The script fails unless the
gradients agree with finite differences, the same run in float32 stays close, and the runs in float32 and in
bfloat16 choose the same experts as the one in float64. With --bf16_only the files stay as they are but for the
errors in bfloat16.
"""
import argparse
import contextlib
import json
import math
import pathlib

import torch
from safetensors.torch import load_file, save_file

import reference_model
import rounding

HERE = pathlib.Path(__file__).parent
STEPS = 5
MIN_GAP = 0.15  # of gate_scale, between the logarithms of the last chosen and the first rejected probability: a run
# in bfloat16 must make the same choices in every layer and step, else its numbers are those of another model

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


# Each case covers branches that the others do not; README.md has the table. B and S are those of one batch. All
# widths are multiples of 8, as kernels on CUDA want them.
CASES = {
    "v2lite": dict(
        batch=(3, 23), embed_scale=0.8, scale=0.8, gate_scale=1.5, empty_expert=False,
        config=dict(
            vocab_size=104, hidden_size=40, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
            intermediate_size=56, moe_intermediate_size=16, q_lora_rank=None, kv_lora_rank=32,
            qk_nope_head_dim=8, qk_rope_head_dim=16, v_head_dim=24, n_routed_experts=8, num_experts_per_tok=3,
            n_shared_experts=2, first_k_dense_replace=1, moe_layer_freq=1, topk_method="greedy", n_group=1,
            topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, aux_loss_alpha=0.02, seq_aux=True,
            rms_norm_eps=1e-6, tie_word_embeddings=False,
            torch_dtype="bfloat16",
            rope_scaling=yarn(factor=40, beta_fast=8, beta_slow=1, mscale=0.9, mscale_all_dim=0.7,
                              original_max_position_embeddings=256))),
    "v2": dict(
        batch=(3, 19), embed_scale=0.8, scale=0.8, gate_scale=1.5, empty_expert=False,
        config=dict(
            vocab_size=96, hidden_size=48, num_hidden_layers=3, num_attention_heads=3, num_key_value_heads=3,
            intermediate_size=40, moe_intermediate_size=16, q_lora_rank=24, kv_lora_rank=16,
            qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=12,
            num_experts_per_tok=3, n_shared_experts=1, first_k_dense_replace=1, moe_layer_freq=1,
            topk_method="group_limited_greedy",
            n_group=4, topk_group=2, norm_topk_prob=False, routed_scaling_factor=2.5, aux_loss_alpha=0.03,
            seq_aux=False, rms_norm_eps=1e-3, tie_word_embeddings=False, torch_dtype="bfloat16",
            rope_theta=1000.0,
            rope_scaling=yarn(factor=8, beta_fast=4, beta_slow=1, mscale=0.707, mscale_all_dim=0.707,
                              original_max_position_embeddings=64))),
    "heads": dict(
        batch=(2, 256), embed_scale=0.8, scale=0.8, gate_scale=1.5, empty_expert=False,
        config=dict(
            vocab_size=72, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=40, moe_intermediate_size=16, q_lora_rank=None, kv_lora_rank=24,
            qk_nope_head_dim=128, qk_rope_head_dim=64, v_head_dim=128, n_routed_experts=8, num_experts_per_tok=2,
            n_shared_experts=1, first_k_dense_replace=1, moe_layer_freq=1, topk_method="greedy", n_group=1,
            topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, aux_loss_alpha=0.01, seq_aux=True,
            rms_norm_eps=1e-6, tie_word_embeddings=False, torch_dtype="bfloat16",
            rope_scaling=yarn(factor=40, beta_fast=32, beta_slow=1, mscale=0.707, mscale_all_dim=0.707,
                              original_max_position_embeddings=4096))),
    "v2norm": dict(
        batch=(2, 17), embed_scale=0.8, scale=0.8, gate_scale=3.0, empty_expert=True,
        config=dict(
            vocab_size=112, hidden_size=24, num_hidden_layers=5, num_attention_heads=2, num_key_value_heads=2,
            intermediate_size=40, moe_intermediate_size=16, q_lora_rank=None, kv_lora_rank=16,
            qk_nope_head_dim=8, qk_rope_head_dim=24, v_head_dim=16, n_routed_experts=16,
            num_experts_per_tok=2, n_shared_experts=None, first_k_dense_replace=1, moe_layer_freq=2,
            topk_method="greedy", n_group=None, topk_group=None, norm_topk_prob=True,
            routed_scaling_factor=1.7, aux_loss_alpha=0.05, seq_aux=True, rms_norm_eps=1e-3,
            tie_word_embeddings=False, torch_dtype="float32",
            rope_scaling=yarn(factor=4, beta_fast=4, beta_slow=1, mscale=1.0, mscale_all_dim=0,
                              original_max_position_embeddings=64))),
    "dense": dict(
        batch=(6, 29), embed_scale=0.06, scale=0.2, gate_scale=1.0, empty_expert=False,
        config=dict(
            vocab_size=120, hidden_size=32, num_hidden_layers=2, num_attention_heads=5, num_key_value_heads=5,
            intermediate_size=72, moe_intermediate_size=24, q_lora_rank=None, kv_lora_rank=24,
            qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=8, n_routed_experts=4, num_experts_per_tok=2,
            n_shared_experts=1, first_k_dense_replace=2, moe_layer_freq=1, topk_method="greedy", n_group=1,
            topk_group=1, norm_topk_prob=False, routed_scaling_factor=1.0, aux_loss_alpha=0.001, seq_aux=True,
            rms_norm_eps=1e-6, tie_word_embeddings=True, torch_dtype="float32",
            rope_scaling=None)),
}


class Gates:
    """What the routers of one forward pass decided: aux losses, rows per expert, and of each token the gap to a
    tie. Over all passes: the smallest gap, and all choices."""

    def __init__(self, model):
        self.gap, self.choices = math.inf, []
        self.reset()
        for module in model.modules():
            if type(module).__name__ == "MoEGate":
                module.register_forward_hook(self._after)

    def reset(self):
        self.aux, self.rows, self.gaps = [], [], []

    def _after(self, gate, inputs, output):
        index, _, aux = output
        self.aux.append(aux)
        self.rows.append(torch.bincount(index.flatten(), minlength=gate.n_routed_experts))
        self.choices.append(index.sort(-1).values)
        with torch.no_grad():
            x = inputs[0].reshape(-1, inputs[0].shape[-1])
            wide = torch.promote_types(x.dtype, torch.float32)
            logs = (x.to(wide) @ gate.weight.to(wide).T).log_softmax(-1)
            self._note_gap(gate, logs)

    def _note_gap(self, gate, logs):
        gap = torch.full(logs.shape[:1], math.inf, dtype=logs.dtype)
        if gate.topk_method == "group_limited_greedy":
            by_group = logs.view(logs.shape[0], gate.n_group, -1)
            best = by_group.amax(-1)
            kept = best >= best.topk(gate.topk_group).values[:, -1:]
            gap = self._gap_after(best, gate.topk_group)
            logs = by_group.masked_fill(~kept.unsqueeze(-1), -math.inf).flatten(1)
        gap = torch.minimum(gap, self._gap_after(logs, gate.top_k))
        self.gaps.append(gap)
        self.gap = min(self.gap, gap.min().item())

    @staticmethod
    def _gap_after(logs, k):
        ordered = logs.sort(-1, descending=True).values
        return ordered[:, k - 1] - ordered[:, k]


def full_config(case):
    return dict(sorted({**COMMON, **case["config"]}.items()))


def random_weights(model, case, generator):
    """Larger than the usual initialisation, so that every branch shows; exact in bfloat16, however stored."""
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
        weights[name] = value.to(torch.bfloat16).to(stored)
    return weights


def build(reference, config, weights, dtype):
    config_class, modeling = reference
    model = modeling.DeepseekV2ForCausalLM(config_class(**config, attn_implementation="eager"))
    for p in model.parameters():  # not the rotary tables: transformers leaves them in float32, too
        p.data = p.data.to(dtype)
    model.train()
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


def clear_batches(model, gates, case, generator):
    """Random batches, token by token: one that brings a router of the model, as it is when the batch is drawn, near
    to a tie is drawn again. Attention is causal, so later tokens do not change what earlier ones choose."""
    b, s = case["batch"]
    for _ in range(STEPS):
        ids = torch.zeros(b, s, dtype=torch.int64)
        for i in range(s):
            near = torch.ones(b, dtype=torch.bool)
            for _ in range(200):
                drawn = torch.randint(case["config"]["vocab_size"], (b,), generator=generator)
                ids[:, i] = torch.where(near, drawn, ids[:, i])
                gates.reset()
                with torch.no_grad():
                    model(input_ids=ids[:, :max(i + 1, 2)], use_cache=False)
                near = torch.zeros(b, dtype=torch.bool)
                for gap in gates.gaps:
                    near |= gap.view(b, -1)[:, i] < MIN_GAP * case["gate_scale"]
                if not near.any():
                    break
            else:
                raise SystemExit("200 random tokens in a row are near to a tie")
        yield ids


def train(model, gates, batches):
    """Losses and gradient norms (before clipping) of AdamW steps, one batch each; the model is changed. A model in
    bfloat16 has float32 copies of its weights, which get the gradients and are rounded after each step."""
    parameters = list(model.parameters())
    low = parameters[0].dtype == torch.bfloat16
    masters = [torch.nn.Parameter(p.detach().float()) for p in parameters] if low else parameters
    optimizer = torch.optim.AdamW(masters, lr=1e-3, betas=(0.9, 0.95), eps=1e-8, weight_decay=0)
    losses, norms = [], []
    for ids in batches:
        model.zero_grad()
        loss, _, _ = forward(model, gates, ids)
        loss.backward()
        if low:
            for master, p in zip(masters, parameters):
                master.grad = p.grad.float()
        norms.append(torch.nn.utils.clip_grad_norm_(masters, 1.0).item())
        losses.append(loss.item())
        optimizer.step()
        if low:
            with torch.no_grad():
                for master, p in zip(masters, parameters):
                    p.copy_(master)
    return losses, norms


def run(reference, config, weights, batches, dtype):
    """What reference.safetensors holds: in float64, or as the code runs by itself in float32 or bfloat16 (weights,
    activations and gradients; the code has its norms, router, softmax and loss in float32). And the gates."""
    with reference_model.Float64() if dtype == torch.float64 else contextlib.nullcontext():
        model, gates = build(reference, config, weights, dtype)
        loss, logits, aux = forward(model, gates, batches[0])
        loss.backward()
        found = {"logits": logits.detach(), "loss": loss.detach().reshape(1)}
        found |= {f"grad.{name}": p.grad.clone() for name, p in model.named_parameters()}
        if aux:
            found["aux"] = torch.stack(aux).detach()
        losses, norms = train(model, gates, batches)
    found["train_loss"] = torch.tensor(losses, dtype=torch.float64)
    found["grad_norm"] = torch.tensor(norms, dtype=torch.float64)
    return found, gates


def draw(reference, config, case, seed):
    """Random weights, and batches that keep their routing away from ties while they train it."""
    generator = torch.Generator().manual_seed(seed)
    with reference_model.Float64():
        model, _ = build(reference, config, None, torch.float64)
    weights = random_weights(model, case, generator)
    with reference_model.Float64():
        model, gates = build(reference, config, weights, torch.float64)
        batches = []
        train(model, gates, (batches.append(ids) or ids for ids in clear_batches(model, gates, case, generator)))
    return weights, torch.stack(batches)


def search(reference, case):
    """The first seed that leaves an expert of batch 0 without rows, or none, as the case says (empty_expert)."""
    config = full_config(case)
    for seed in range(100):
        weights, batches = draw(reference, config, case, seed)
        found, gates = run(reference, config, weights, batches, torch.float64)
        n = len(found.get("aux", ()))
        rows = [torch.bincount(c.flatten(), minlength=config["n_routed_experts"]) for c in gates.choices[:n]]
        if any((r == 0).any() for r in rows) == case["empty_expert"]:
            return seed, weights, batches, found, gates, rows
    raise SystemExit("no seed below 100 has the experts without rows that the case wants")


def relative(a, b):
    norm = b.double().norm().item()
    return (a.double() - b.double()).norm().item() / norm if norm else a.double().norm().item()


def same_choices(gates, wide):
    return all(torch.equal(a, b) for a, b in zip(gates.choices, wide.choices, strict=True))


def errors(found, wide):
    """By the names of the rows of `moec check`: its measures of how far `found` is from the float64 run."""
    e = {"logits": ((found["logits"] - wide["logits"]).abs().max() / wide["logits"].abs().max()).item()}
    e |= {k: relative(found[k], wide[k]) for k in wide if k.startswith("grad.")}
    for k in {"loss", "aux", "train_loss", "grad_norm"} & wide.keys():
        each = ((found[k].double() - wide[k]).abs() / wide[k].abs().clamp(min=1e-30)).tolist()
        e |= {k if len(each) == 1 else f"{k}[{i}]": x for i, x in enumerate(each)}
    return e


def worst(e):
    """The largest error of each kind, for people."""
    def top(*starts):
        return max(x for k, x in e.items() if k.startswith(starts))

    aux = f", aux {top('aux'):.1e}" if any(k.startswith("aux") for k in e) else ""
    return (f"logits {e['logits']:.1e}, worst gradient {top('grad.'):.1e}, "
            f"losses {top('loss', 'train_loss'):.1e}{aux}, norms {top('grad_norm'):.1e}")


def check_float32(reference, config, weights, batches, found, wide):
    """The code in float32 must stay well inside the tolerances that moec is held to: as it is, and in every way of
    rounding, which must be the same mathematics."""
    for what, ways in rounding.RUNS.items():
        with rounding.active(reference[1], ways):
            plain, gates = run(reference, config, weights, batches, torch.float32)
        e = errors(plain, found)
        print(f"  float32, {what}: {worst(e)}")
        assert same_choices(gates, wide)
        for k, x in e.items():
            assert x < (2e-5 if k == "logits" else 5e-5 if k.startswith("grad") else 5e-6), k


def dithered_errors(reference, config, weights, batches, found, wide):
    """Of single numbers, losses and norms, whose error in one run is chance: how far further runs are off."""
    for seed in range(rounding.DITHERS):
        with rounding.dithered(seed):
            low, gates = run(reference, config, weights, batches, torch.bfloat16)
        assert same_choices(gates, wide)
        yield {k: x for k, x in errors(low, found).items() if k.startswith(("loss", "aux", "train_loss", "grad_norm"))}


def run_bfloat16(reference, config, weights, batches, found, wide):
    """The largest error of each number over correct runs in bfloat16, and whether all chose the same experts."""
    most, all_same = {}, True
    for what, ways in rounding.RUNS.items():
        with rounding.active(reference[1], ways):
            low, gates = run(reference, config, weights, batches, torch.bfloat16)
            each = [errors(low, found), *dithered_errors(reference, config, weights, batches, found, wide)]
        same = same_choices(gates, wide)
        print(f"  bfloat16, {what}: {worst(each[0])}; {'the same' if same else 'OTHER'} experts, smallest gap "
              f"{gates.gap:.2f}")
        for e in each:
            most |= {k: max(x, most.get(k, 0)) for k, x in e.items()}
        all_same &= same
    return most, all_same


def check_differences(reference, config, weights, batches, found):
    """Central differences of (mean loss + aux) along one direction per tensor, against the gradients."""
    generator = torch.Generator().manual_seed(1)
    largest, step = 0.0, 1e-5
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
            largest = max(largest, abs((high - low) / (2 * step) - expected) / max(abs(expected), 1e-3))
        assert gates.gap > MIN_GAP / 2
    print(f"  central differences against gradients, worst tensor: {largest:.1e} relative")
    assert largest < 1e-7


def write_reference(path, batches, found, bf16_errors):
    wide = {"loss", "aux", "train_loss", "grad_norm"}
    tensors = {k: v if k in wide else v.float().contiguous() for k, v in found.items()}
    tensors |= {f"bf16_error.{k}": torch.tensor([x], dtype=torch.float64) for k, x in bf16_errors.items()}
    tensors["input_ids"] = batches.to(torch.int32)
    save_file(tensors, path)
    path.chmod(0o644)


def write(name, config, weights, batches, found, bf16_errors):
    folder = HERE / name
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    stored = getattr(torch, config["torch_dtype"])
    assert all(w.dtype == stored for w in weights.values())
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)
    write_reference(folder / "reference.safetensors", batches, found, bf16_errors)
    return sum(f.stat().st_size for f in folder.iterdir())


def write_bf16_errors(name, reference):
    """Makes the errors in bfloat16 of existing files anew; every other tensor keeps its bytes."""
    path = HERE / name / "reference.safetensors"
    config = json.loads((HERE / name / "config.json").read_text())
    weights, stored = load_file(HERE / name / "model.safetensors"), load_file(path)
    batches = stored["input_ids"].long()
    found, gates = run(reference, config, weights, batches, torch.float64)
    for key, value in found.items():
        assert relative(value, stored[key]) < 1e-6, key
    check_float32(reference, config, weights, batches, found, gates)
    bf16_errors, same = run_bfloat16(reference, config, weights, batches, found, gates)
    assert same
    kept = {k: v for k, v in stored.items() if not k.startswith("bf16_error.")}
    kept |= {f"bf16_error.{k}": torch.tensor([x], dtype=torch.float64) for k, x in bf16_errors.items()}
    assert kept.keys() == stored.keys()
    save_file(kept, path)
    path.chmod(0o644)


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
    parser.add_argument("--bf16_only", action="store_true", help="keep the files but for bf16_error")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    reference = reference_model.load(args.modeling)
    cases = CASES if not args.only else {args.only: CASES[args.only]}
    if args.bf16_only:
        for name in cases:
            print(name)
            write_bf16_errors(name, reference)
        return
    write_yarn(reference)
    for name, case in cases.items():
        config = full_config(case)
        seed, weights, batches, found, gates, rows = search(reference, case)
        print(f"{name}: seed {seed}, smallest gap {gates.gap:.2f}, loss {found['loss'].item():.6f}, "
              f"aux {[round(a, 6) for a in found.get('aux', torch.zeros(0)).tolist()]}")
        print(f"  train_loss {[round(x, 5) for x in found['train_loss'].tolist()]}, "
              f"grad_norm {[round(x, 5) for x in found['grad_norm'].tolist()]}")
        print(f"  rows per expert of batch 0: {[r.tolist() for r in rows]}")
        check_float32(reference, config, weights, batches, found, gates)
        bf16_errors, same = run_bfloat16(reference, config, weights, batches, found, gates)
        assert same
        check_differences(reference, config, weights, batches, found)
        print(f"  {write(name, config, weights, batches, found, bf16_errors)} bytes")
        check_files(name, reference)


if __name__ == "__main__":
    main()
