"""Correct ways to run the reference code in bfloat16 that differ in where they round: what it may be off by.

Each changes some functions of the module `modeling` while it is active; the mathematics stays. None rounds more often
than the code itself.
"""
import contextlib

import torch
import torch.nn.functional as F


def norm_once(self, x):
    wide = x.float()
    wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return (self.weight.float() * wide).to(x.dtype)


def float_tables(self, x, seq_len=None):
    if self.max_seq_len_cached is None or seq_len > self.max_seq_len_cached:
        self._set_cos_sin_cache(seq_len=seq_len, device=x.device, dtype=torch.float32)
    return self.cos_cached[:seq_len].float(), self.sin_cached[:seq_len].float()


def rotate_once(q, k, cos, sin, position_ids, unsqueeze_dim=1):
    cos, sin = cos[position_ids].unsqueeze(unsqueeze_dim), sin[position_ids].unsqueeze(unsqueeze_dim)

    def rotate(x):
        halves = x.float().unflatten(-1, (-1, 2)).transpose(-1, -2)  # [even numbers, odd numbers]
        even, odd = halves.unbind(-2)
        return (halves.flatten(-2) * cos + torch.cat([-odd, even], -1) * sin).to(x.dtype)

    return rotate(q), rotate(k)


def swiglu_once(mlp, x, factor=1.0):
    return (F.silu(mlp.gate_proj(x).float()) * mlp.up_proj(x).float() * factor).to(x.dtype)


def mlp_once(self, x):
    return self.down_proj(swiglu_once(self, x))


def experts_gate_first(modeling):
    """The router's weight of a token enters before the second product, as moec has it."""
    def forward(self, x):
        top, gate, aux = self.gate(x)
        rows = x.view(-1, x.shape[-1]).repeat_interleave(self.num_experts_per_tok, 0)
        y = torch.empty_like(rows)
        for i, expert in enumerate(self.experts):
            mine = top.view(-1) == i
            y[mine] = expert.down_proj(swiglu_once(expert, rows[mine], gate.view(-1, 1)[mine].float()))
        y = y.view(*gate.shape, -1).float().sum(1).to(x.dtype).view(x.shape)
        y = modeling.AddAuxiliaryLoss.apply(y, aux)
        return y + self.shared_experts(x) if self.config.n_shared_experts is not None else y
    return forward


def attention_float_scores(modeling):
    """Scores and their softmax stay float32, as in a fused kernel; probabilities are rounded for the last product."""
    def forward(self, hidden_states, attention_mask=None, position_ids=None, **_):
        x, heads = hidden_states, self.num_heads
        b, s, _ = x.shape
        q = self.q_proj(x) if self.q_lora_rank is None else self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x)))
        widths = [self.qk_nope_head_dim, self.qk_rope_head_dim]
        q_nope, q_rope = q.view(b, s, heads, -1).transpose(1, 2).split(widths, -1)
        low, k_rope = self.kv_a_proj_with_mqa(x).split([self.kv_lora_rank, self.qk_rope_head_dim], -1)
        kv = self.kv_b_proj(self.kv_a_layernorm(low)).view(b, s, heads, -1).transpose(1, 2)
        k_nope, v = kv.split([self.qk_nope_head_dim, self.v_head_dim], -1)
        cos, sin = self.rotary_emb(v, seq_len=s)
        q_rope, k_rope = modeling.apply_rotary_pos_emb(q_rope, k_rope[:, None], cos, sin, position_ids)
        q = torch.cat([q_nope, q_rope], -1)
        k = torch.cat([k_nope, k_rope.expand(-1, heads, -1, -1)], -1)
        scores = q.float() @ k.float().transpose(2, 3) * self.softmax_scale + attention_mask.float()
        o = (scores.softmax(-1).to(x.dtype).float() @ v.float()).to(x.dtype)
        return self.o_proj(o.transpose(1, 2).flatten(2)), None, None
    return forward


def changes(modeling, ways):
    """(object, attribute, function) of each named way."""
    once = [(modeling.DeepseekV2RMSNorm, "forward", norm_once),
            (modeling.DeepseekV2RotaryEmbedding, "forward", float_tables),
            (modeling, "apply_rotary_pos_emb", rotate_once),
            (modeling.DeepseekV2MLP, "forward", mlp_once)]
    attention = [(modeling.DeepseekV2Attention, "forward", attention_float_scores(modeling))]
    gate = [(modeling.DeepseekV2MoE, "forward", experts_gate_first(modeling))]
    return sum(({"once": once, "attention": attention, "gate": gate}[way] for way in ways), [])


class Dithered(torch.autograd.Function):
    """A product whose numbers are off by up to 2^-12 of themselves when they are rounded, an eighth of what rounding does:
    other roundings of as correct a run."""
    generator = torch.Generator()

    @classmethod
    def rounded(cls, wide, dtype):
        return (wide * (1 + (torch.rand(wide.shape, generator=cls.generator) - 0.5) * 2**-11)).to(dtype)

    @staticmethod
    def forward(ctx, x, w):
        ctx.save_for_backward(x, w)
        return Dithered.rounded(x.float() @ w.float().t(), x.dtype)

    @staticmethod
    def backward(ctx, dy):
        x, w = ctx.saved_tensors
        rows = dy.float().flatten(0, -2)
        return (Dithered.rounded(dy.float() @ w.float(), x.dtype),
                Dithered.rounded(rows.t() @ x.float().flatten(0, -2), w.dtype))


@contextlib.contextmanager
def dithered(seed):
    """All products of weights in bfloat16."""
    plain = F.linear
    Dithered.generator.manual_seed(seed)
    F.linear = lambda x, w, b=None: Dithered.apply(x, w) if x.dtype == w.dtype == torch.bfloat16 else plain(x, w, b)
    try:
        yield
    finally:
        F.linear = plain


DITHERS = 6  # further runs of each way, for errors of single numbers
# What the envelope is taken over.
RUNS = {
    "the code as it is": (),
    "norms, rotation and SwiGLU rounded once": ("once",),
    "scores of attention in float32": ("attention",),
    "both, and the router's weight before the second product": ("once", "attention", "gate"),
}


@contextlib.contextmanager
def active(modeling, ways):
    kept = [(holder, name, getattr(holder, name)) for holder, name, _ in changes(modeling, ways)]
    for holder, name, function in changes(modeling, ways):
        setattr(holder, name, function)
    try:
        yield
    finally:
        for holder, name, function in kept:
            setattr(holder, name, function)
