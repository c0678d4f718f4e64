"""A whole training step of transformers' DeepseekV2 on one GPU, for `moec bench step`.

    python bench/peers/step.py --model_id CONFIG [--tokens 131072] > peer.json

bfloat16 weights, gradients and AdamW states, no float32 master, gradient checkpointing: without both the 27 layers do
not fit one GPU. Experts by torch._grouped_mm, attention by scaled_dot_product_attention. Random tokens, no aux loss,
no clipping. A few micro-batches and an update are timed; the step is as many micro-batches as its tokens need and one
update. The largest micro-batch that fits is taken. One JSON object.
"""
import argparse
import gc
import json

import torch
import transformers

from timing import milliseconds, model_config, product_tflops


def build(args):
    with torch.device("cuda"):
        model = transformers.AutoModelForCausalLM.from_config(
            model_config(args.model_id, args.layers), dtype=torch.bfloat16, attn_implementation="sdpa",
            experts_implementation="grouped_mm")
    model.train()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=dict(use_reentrant=False))
    return model, torch.optim.AdamW(model.parameters(), lr=1e-5, betas=(0.9, 0.95), weight_decay=0, fused=True)


def measure(model, optimizer, sequences, args):
    ids = torch.randint(model.config.vocab_size, (sequences, args.sequence_length), device="cuda")

    def micro_batch():
        model(input_ids=ids, labels=ids).loss.backward()

    micro_batch()
    optimizer.step()  # makes the states: a step that does not fit fails here
    micro = milliseconds(micro_batch, runs=args.runs, warm=1)
    update = milliseconds(optimizer.step, runs=2, warm=0)
    seconds = (args.tokens / ids.numel() * micro + update) / 1e3
    return dict(seconds=round(seconds, 4), tokens=args.tokens, tokens_per_s=round(args.tokens / seconds, 1),
                micro_batch=sequences, micro_batch_ms=round(micro, 2), update_ms=round(update, 2),
                peak_bytes=torch.cuda.max_memory_allocated())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_id", required=True)
    parser.add_argument("--tokens", type=int, default=131072)
    parser.add_argument("--sequence_length", type=int, default=2048)
    parser.add_argument("--layers", type=int, help="instead of those of config.json")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    torch.manual_seed(0)
    ceiling = round(product_tflops(), 1)
    model, optimizer = build(args)
    for sequences in (4, 2, 1):
        try:
            found = measure(model, optimizer, sequences, args)
            break
        except torch.OutOfMemoryError:
            optimizer.zero_grad()
            gc.collect()
            torch.cuda.empty_cache()
    else:
        raise SystemExit("one sequence at a time does not fit this GPU: fewer --layers")
    print(json.dumps(dict(torch=torch.__version__, transformers=transformers.__version__, product_tflops=ceiling,
                          layers=model.config.num_hidden_layers, **found)))


if __name__ == "__main__":
    main()
