"""The experts' products of `moec bench grouped-gemm` in torch: gate, up, SwiGLU, down; forward and backward.

    python bench/peers/grouped_gemm.py [--runs 20] > peer.json

For each row of the table the fastest of: three torch._grouped_mm; gate and up as one; a loop of cuBLAS products. Random
even routing, 6 rows per token. Weight gradients are written, not added. One JSON object.
"""
import argparse
import json
import sys

import torch
import torch.nn.functional as F

from timing import PEAK, milliseconds, product_tflops

TABLE = ((4096, 64), (2048, 32), (8192, 64), (2048, 16), (16384, 64), (2048, 8))
WIDTH, HIDDEN, COPIES = 2048, 1408, 6


@torch.compile
def swiglu(gate, up):
    return F.silu(gate) * up


def variants(x, weights, offsets, counts):
    """name -> (function, the tensors that get gradients)"""
    gate, up, down, gate_up = weights
    product = torch._grouped_mm

    def three():
        g = product(x, gate.transpose(1, 2), offs=offsets)
        u = product(x, up.transpose(1, 2), offs=offsets)
        return product(swiglu(g, u), down.transpose(1, 2), offs=offsets)

    def fused():
        g, u = product(x, gate_up.transpose(1, 2), offs=offsets).chunk(2, -1)
        return product(swiglu(g, u), down.transpose(1, 2), offs=offsets)

    def loop():
        parts = []
        for expert, rows in enumerate(x.split(counts)):
            g, u = (rows @ gate_up[expert].t()).chunk(2, -1)
            parts.append(swiglu(g, u) @ down[expert].t())
        return torch.cat(parts)

    return {"three grouped_mm": three, "two grouped_mm": fused, "cuBLAS loop": loop}


def random_weight(*shape):
    return (torch.randn(*shape, device="cuda", dtype=torch.bfloat16) * 0.02).requires_grad_()


def measure(tokens, experts, runs):
    rows = tokens * COPIES
    counts = torch.bincount(torch.multinomial(torch.ones(tokens, experts, device="cuda"), COPIES).flatten(),
                            minlength=experts)
    x = torch.randn(rows, WIDTH, device="cuda", dtype=torch.bfloat16, requires_grad=True)
    dy = torch.randn(rows, WIDTH, device="cuda", dtype=torch.bfloat16)
    weights = (random_weight(experts, HIDDEN, WIDTH), random_weight(experts, HIDDEN, WIDTH),
               random_weight(experts, WIDTH, HIDDEN), random_weight(experts, 2 * HIDDEN, WIDTH))
    best = None
    for name, function in variants(x, weights, counts.cumsum(0).to(torch.int32), counts.tolist()).items():
        def both():
            for p in (x, *weights):
                p.grad = None
            function().backward(dy)

        try:
            with torch.no_grad():
                forward = milliseconds(function, runs)
            total = milliseconds(both, runs)
        except RuntimeError as error:
            print(f"{tokens} tokens, {experts} experts, {name}: {str(error).splitlines()[0]}", file=sys.stderr)
            continue
        if best is None or total < best["forward_ms"] + best["backward_ms"]:
            best = dict(tokens=tokens, experts=experts, forward_ms=round(forward, 4),
                        backward_ms=round(total - forward, 4),
                        mfu=round(3 * rows * 6 * WIDTH * HIDDEN / (total * 1e-3) / PEAK, 4), variant=name)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20)
    args = parser.parse_args()
    torch.manual_seed(0)
    ceiling = round(product_tflops(), 1)
    rows = [r for r in (measure(tokens, experts, args.runs) for tokens, experts in TABLE) if r]
    print(json.dumps(dict(torch=torch.__version__, product_tflops=ceiling, rows=rows)))


if __name__ == "__main__":
    main()
