"""DeepSeek-V2-Lite in plain torch, for comparing loss curves: MLA, YaRN, greedy softmax router, aux loss by sequence.

bfloat16 on a GPU: weights, activations and gradients bfloat16; norms, rotation, router, softmax and loss in float32,
rounded once. float32 on the CPU: everything float32. The mathematics is that of the model's public remote code; what
V2-Lite's config.json does not use is refused.
"""
import json
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors import safe_open

ONLY = dict(q_lora_rank=None, topk_method="greedy", norm_topk_prob=False, scoring_func="softmax", seq_aux=True,
            moe_layer_freq=1, tie_word_embeddings=False, attention_bias=False, hidden_act="silu")


def read_config(directory):
    config = json.loads((pathlib.Path(directory) / "config.json").read_text())
    for key, value in ONLY.items():
        if config.get(key) != value:
            raise SystemExit(f"{directory}/config.json: {key} is {config.get(key)!r}, expected {value!r}")
    return config


def read_tensors(directory, device):
    """Every tensor of a Hugging Face directory by its name, as stored."""
    tensors = {}
    for path in sorted(pathlib.Path(directory).glob("*.safetensors")):
        with safe_open(path, framework="pt", device=device) as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}
    return tensors


def read_merged(directory, config, device):
    """model.layers.N.mlp.experts.gate_up [E, 2 F, D] and .down [E, D, F] in place of the tensors of each expert."""
    tensors = read_tensors(directory, device)
    for layer in range(config["first_k_dense_replace"], config["num_hidden_layers"]):
        at = f"model.layers.{layer}.mlp.experts."
        part = {name: torch.stack([tensors.pop(f"{at}{e}.{name}_proj.weight")
                                   for e in range(config["n_routed_experts"])]) for name in ("gate", "up", "down")}
        tensors[at + "gate_up"] = torch.cat([part["gate"], part["up"]], 1)
        tensors[at + "down"] = part["down"]
    return tensors


def mscale(factor, weight):
    return 0.1 * weight * math.log(factor) + 1 if factor > 1 else 1.0


def rotary(config, length, device):
    """cos and sin [length, rope width / 2], and the softmax scale: both corrections of YaRN."""
    width, base, yarn = config["qk_rope_head_dim"], config["rope_theta"], config["rope_scaling"]
    plain = base ** (-torch.arange(0, width, 2, dtype=torch.float64) / width)
    scale = (config["qk_nope_head_dim"] + width) ** -0.5
    if not yarn:
        angle = torch.arange(length, dtype=torch.float64)[:, None] * plain
        return angle.cos().float().to(device), angle.sin().float().to(device), scale

    def pair_of(rotations):
        return width * math.log(yarn["original_max_position_embeddings"] / (2 * math.pi * rotations)) / (
            2 * math.log(base))

    low = max(math.floor(pair_of(yarn["beta_fast"])), 0)
    high = min(math.ceil(pair_of(yarn["beta_slow"])), width - 1)
    ramp = ((torch.arange(width // 2, dtype=torch.float64) - low) / max(high - low, 1e-3)).clamp(0, 1)
    angle = torch.arange(length, dtype=torch.float64)[:, None] * (plain * (1 - ramp) + plain / yarn["factor"] * ramp)
    all_dim = mscale(yarn["factor"], yarn["mscale_all_dim"])
    table = mscale(yarn["factor"], yarn["mscale"]) / all_dim
    scale *= all_dim ** 2 if yarn["mscale_all_dim"] else 1
    return (table * angle.cos()).float().to(device), (table * angle.sin()).float().to(device), scale


def rotate(x, cos, sin):
    """x [..., S, width]: stored pairs (2 i, 2 i + 1) turn by angle i; any common order of the result will do."""
    even, odd = x.float().unflatten(-1, (-1, 2)).unbind(-1)
    return torch.cat([even * cos - odd * sin, odd * cos + even * sin], -1).to(x.dtype)


def norm(x, weight, eps):
    return F.rms_norm(x.float(), weight.shape, weight.float(), eps).to(x.dtype)


def products_by_expert(x, weight, counts):
    """Rows of x, sorted by expert, times the transposed matrix [out, in] of their expert."""
    if x.is_cuda:
        return torch._grouped_mm(x, weight.transpose(1, 2), offs=counts.cumsum(0).to(torch.int32))
    return torch.cat([rows @ w.T for rows, w in zip(x.split(counts.tolist()), weight)])


class DeepseekV2:
    def __init__(self, directory, device, dtype):
        self.config = read_config(directory)
        tensors = read_merged(directory, self.config, device)
        self.weight = {k: v.to(dtype).requires_grad_() for k, v in tensors.items()}
        self.table = {}

    def loss(self, ids):
        """(mean cross-entropy over the shifted targets, sum of the layers' aux losses), ids [B, S]."""
        c, w = self.config, self.weight
        eps, aux = c["rms_norm_eps"], 0
        h = F.embedding(ids, w["model.embed_tokens.weight"])
        for layer in range(c["num_hidden_layers"]):
            p = f"model.layers.{layer}."
            h = h + self.attention(norm(h, w[p + "input_layernorm.weight"], eps), p + "self_attn.")
            x = norm(h, w[p + "post_attention_layernorm.weight"], eps)
            if layer < c["first_k_dense_replace"]:
                h = h + self.mlp(x, p + "mlp.")
            else:
                y, of_layer = self.experts(x, p + "mlp.")
                h, aux = h + y, aux + of_layer
        h = norm(h, w["model.norm.weight"], eps)
        logits = F.linear(h[:, :-1], w["lm_head.weight"]).float()
        return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()), aux

    def attention(self, x, p):
        c, w = self.config, self.weight
        (b, s), heads, nope = x.shape[:2], c["num_attention_heads"], c["qk_nope_head_dim"]
        if s not in self.table:
            self.table[s] = rotary(c, s, x.device)
        cos, sin, scale = self.table[s]
        q = F.linear(x, w[p + "q_proj.weight"]).view(b, s, heads, -1).transpose(1, 2)
        low, k_rope = F.linear(x, w[p + "kv_a_proj_with_mqa.weight"]).split(
            [c["kv_lora_rank"], c["qk_rope_head_dim"]], -1)
        low = norm(low, w[p + "kv_a_layernorm.weight"], 1e-6)
        kv = F.linear(low, w[p + "kv_b_proj.weight"]).view(b, s, heads, -1).transpose(1, 2)
        q = torch.cat([q[..., :nope], rotate(q[..., nope:], cos, sin)], -1)
        k_rope = rotate(k_rope, cos, sin)[:, None].expand(-1, heads, -1, -1)
        k = torch.cat([kv[..., :nope], k_rope], -1)
        o = F.scaled_dot_product_attention(q, k, kv[..., nope:].contiguous(), is_causal=True, scale=scale)
        return F.linear(o.transpose(1, 2).flatten(2), w[p + "o_proj.weight"])

    def mlp(self, x, p):
        w = self.weight
        a = F.silu(F.linear(x, w[p + "gate_proj.weight"])) * F.linear(x, w[p + "up_proj.weight"])
        return F.linear(a, w[p + "down_proj.weight"])

    def experts(self, x, p):
        c, w = self.config, self.weight
        (b, s, d), e, k = x.shape, c["n_routed_experts"], c["num_experts_per_tok"]
        prob = F.linear(x.float(), w[p + "gate.weight"].float()).softmax(-1)
        gate, top = prob.topk(k, -1, sorted=False)
        chosen = torch.zeros(b, e, device=x.device).scatter_add_(1, top.flatten(1), torch.ones_like(gate).flatten(1))
        aux = c["aux_loss_alpha"] * (chosen / (s * k / e) * prob.mean(1)).sum(1).mean()
        order = top.flatten().argsort(stable=True)
        back = torch.empty_like(order)
        back[order] = torch.arange(order.numel(), device=x.device)
        counts = chosen.sum(0).long()
        rows = x.view(-1, 1, d).expand(-1, k, -1).reshape(-1, d).index_select(0, order)
        g, u = products_by_expert(rows, w[p + "experts.gate_up"], counts).chunk(2, -1)
        y = products_by_expert(F.silu(g) * u, w[p + "experts.down"], counts).index_select(0, back).view(-1, k, d)
        y = (y.float() * (gate * c["routed_scaling_factor"]).view(-1, k, 1)).sum(1).to(x.dtype).view(b, s, d)
        return y + self.mlp(x, p + "shared_experts.") if c["n_shared_experts"] else y, aux
