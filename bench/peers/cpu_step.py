"""Tokens per second of a training step of transformers on the CPU, in float32.

    python cpu_step.py --model_id bench/peers/tiny --modeling DIR --threads 2

A step is forward and backward of every micro-batch, clipping and AdamW. Prints one JSON line per
implementation that this Python has: "remote", the public model code in DIR (needs transformers 4.40), or
"native", the class of newer versions, with the two expert loops that are usable on a CPU (the third,
batched_mm, copies weights for each token and is 25 times slower). One untimed step warms up; the figure is the
median step.
"""
import argparse
import json
import os
import pathlib
import statistics
import sys
import time
import warnings


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model_id", type=pathlib.Path, required=True, help="directory with config.json")
    parser.add_argument("--modeling", help="directory of the remote code; without it, native alone")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro_batch_size", type=int, default=4)
    parser.add_argument("--grad_accumulation_steps", type=int, default=1)
    parser.add_argument("--sequence_length", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    return parser.parse_args()


ARGS = arguments()
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(ARGS.threads)  # before importing torch
import torch  # noqa: E402
import transformers  # noqa: E402


def remote_model(fields):
    sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "tests" / "golden"))
    import reference_model
    config_class, modeling = reference_model.load(ARGS.modeling)
    return modeling.DeepseekV2ForCausalLM(config_class(**fields, attn_implementation="eager"))


def native_model(fields, experts):
    config = transformers.DeepseekV2Config.from_pretrained(ARGS.model_id)
    config._attn_implementation = "sdpa"
    config._experts_implementation = experts
    return transformers.DeepseekV2ForCausalLM(config)


def step(model, optimizer, micro_batches):
    optimizer.zero_grad(set_to_none=True)
    for ids in micro_batches:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss / len(micro_batches)
        loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item() * len(micro_batches)


def measure(name, model):
    model = model.float().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), eps=1e-8, weight_decay=0,
                                  fused=True)
    generator = torch.Generator().manual_seed(0)
    shape = (ARGS.grad_accumulation_steps, ARGS.micro_batch_size, ARGS.sequence_length)
    seconds, losses = [], []
    for _ in range(ARGS.steps + 1):
        batch = torch.randint(model.config.vocab_size, shape, generator=generator)
        start = time.perf_counter()
        losses.append(step(model, optimizer, batch))
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[1:])
    tokens = batch.numel()
    print(json.dumps(dict(
        implementation=name,
        tokens_per_s=round(tokens / median, 1),
        best_tokens_per_s=round(tokens / min(seconds[1:]), 1),
        step_s=round(median, 4),
        tokens_per_step=tokens,
        threads=ARGS.threads,
        steps=ARGS.steps,
        parameters=sum(p.numel() for p in model.parameters()),
        first_loss=round(losses[0], 4),
        torch=torch.__version__,
        transformers=transformers.__version__)), flush=True)


def main():
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(ARGS.threads)
    torch.manual_seed(0)
    fields = json.loads((ARGS.model_id / "config.json").read_text())
    native = hasattr(transformers, "DeepseekV2ForCausalLM")
    if ARGS.modeling and not native:
        measure("remote", remote_model(fields))
    if native:
        for experts in ("eager", "grouped_mm"):
            try:
                measure(f"native {experts}", native_model(fields, experts))
            except (NotImplementedError, RuntimeError, ValueError) as error:
                print(f"native {experts}: {str(error).splitlines()[0]}", file=sys.stderr)
    if not native and not ARGS.modeling:
        raise SystemExit("this transformers has no DeepseekV2 class: give --modeling DIR")


if __name__ == "__main__":
    main()
