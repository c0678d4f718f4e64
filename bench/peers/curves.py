"""Loss curves of moec beside a torch reference: the same weights, batches, schedule and aux loss.

    curves.py config --model_id DIR --layers 8 --output DIR      # config.json with fewer layers, bfloat16
    curves.py train --model_id DIR --dataset_path DIR --output FILE [--steps 300 ...]   # the reference
    curves.py table DIR                                          # of DIR/*.jsonl; torch.jsonl is the reference

The reference keeps weights, activations and gradients in bfloat16 on a GPU (float32 on the CPU), and float32 masters
and moments of AdamW; masters begin as the stored weights. Every file holds one object per step with "loss" and
"tokens_per_s", as moec's metrics.jsonl. bench/peers/curves.sh runs everything.
"""
import argparse
import json
import pathlib
import statistics
import time

LAST = 50  # losses that the comparison takes the mean of


def sequences_of_steps(n_sequences, per_step, steps, seed):
    """The order of moec's samples (doc/formats/dataset.md): a permutation per epoch, no step crosses its end."""
    import torch
    epoch = 0
    while steps > 0:
        order = torch.randperm(n_sequences, generator=torch.Generator().manual_seed(seed + epoch)).tolist()
        for at in range(0, n_sequences, per_step):
            if steps == 0:
                return
            yield order[at:at + per_step]
            steps -= 1
        epoch += 1


def read_dataset(directory):
    import torch
    about = json.loads((pathlib.Path(directory) / "dataset.json").read_text())
    path = str(pathlib.Path(directory) / "tokens.bin")
    shape = about["sequences"], about["sequence_length"]
    return torch.from_file(path, size=shape[0] * shape[1], dtype=torch.int32).view(shape)


class AdamW:
    """float32 masters, at first the tensors as stored, and moments; gradients as the model has them, clipped by their
    common norm."""

    def __init__(self, weights, stored, clip):
        import torch
        self.weights, self.clip = list(weights.values()), clip
        self.masters = [torch.nn.Parameter(stored.pop(name).float().clone()) for name in weights]
        self.optimizer = torch.optim.AdamW(self.masters, betas=(0.9, 0.95), eps=1e-8, weight_decay=0,
                                           fused=self.weights[0].is_cuda)

    def step(self, lr):
        import torch
        for master, w in zip(self.masters, self.weights):
            master.grad, w.grad = w.grad.float(), None
        norm = torch.nn.utils.clip_grad_norm_(self.masters, self.clip).item()
        self.optimizer.param_groups[0]["lr"] = lr
        self.optimizer.step()
        with torch.no_grad():
            for master, w in zip(self.masters, self.weights):
                w.copy_(master)
                master.grad = None
        return norm


def train(args):
    import torch

    from deepseek_v2 import DeepseekV2, read_merged
    device = "cuda" if torch.cuda.is_available() and args.device != "cpu" else "cpu"
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False
    model = DeepseekV2(args.model_id, device, torch.bfloat16 if device == "cuda" else torch.float32)
    optimizer = AdamW(model.weight, read_merged(args.model_id, model.config, device), 1.0)
    data = read_dataset(args.dataset_path)
    batches = sequences_of_steps(len(data), args.global_batch_size, args.steps, args.seed)
    with open(args.output, "w") as out:
        for step, sequences in enumerate(batches, 1):
            start = time.perf_counter()
            ids = data[sequences].long().to(device)
            loss, aux = model.loss(ids)
            (loss + aux).backward()
            norm = optimizer.step(args.lr * min(1, step / max(args.warmup_steps, 1)))
            seconds = time.perf_counter() - start  # the norm was waited for
            print(json.dumps(dict(step=step, loss=loss.item(), aux_loss=torch.as_tensor(aux).item(),
                                  grad_norm=norm, tokens_per_s=round(ids.numel() / seconds, 1))), file=out, flush=True)


def write_config(args):
    config = json.loads((args.model_id / "config.json").read_text())
    config |= dict(num_hidden_layers=args.layers, torch_dtype=args.torch_dtype)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "config.json").write_text(json.dumps(config, indent=2) + "\n")


def read_curve(path):
    steps = [json.loads(line) for line in path.read_text().splitlines()]
    return [s["loss"] for s in steps], statistics.median(s["tokens_per_s"] for s in steps)


def mean_of_last(losses):
    return statistics.fmean(losses[-LAST:])


def table(args):
    """A line per curve; exit status 1 when one is off by more than --limit percent, or not as long as the others."""
    curves = {path.stem: read_curve(path) for path in sorted(args.directory.glob("*.jsonl"))}
    if "torch" not in curves:
        raise SystemExit(f"{args.directory}: no torch.jsonl to compare with")
    reference = curves["torch"][0]
    print(f"{len(reference)} steps; mean of the last {min(LAST, len(reference))} losses; the first loss of torch is "
          f"{reference[0]:.6f}")
    print(f"{'curve':20} {'mean loss':>10} {'to torch':>9} {'largest of one step':>20} {'first step':>11} "
          f"{'tokens/s':>9}")
    bad = False
    for name, (losses, tokens_per_s) in curves.items():
        off = mean_of_last(losses) / mean_of_last(reference) - 1
        each = [abs(a / b - 1) for a, b in zip(losses, reference)]
        step = each.index(max(each)) + 1
        bad |= not abs(off) <= args.limit / 100 or len(losses) != len(reference)
        print(f"{name:20} {mean_of_last(losses):10.6f} {100 * off:+8.4f}% {100 * max(each):12.4f}% at {step:4d} "
              f"{each[0]:11.1e} {tokens_per_s:9.0f}")
    return int(bad)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(required=True)
    c = commands.add_parser("config")
    c.add_argument("--model_id", type=pathlib.Path, required=True)
    c.add_argument("--layers", type=int, required=True)
    c.add_argument("--torch_dtype", default="bfloat16")
    c.add_argument("--output", type=pathlib.Path, required=True)
    c.set_defaults(run=write_config)
    c = commands.add_parser("train")
    c.add_argument("--model_id", required=True, help="directory with weights, made by moec init")
    c.add_argument("--dataset_path", required=True)
    c.add_argument("--output", required=True)
    c.add_argument("--steps", type=int, default=300)
    c.add_argument("--global_batch_size", type=int, default=4)
    c.add_argument("--lr", type=float, default=3e-4)
    c.add_argument("--warmup_steps", type=int, default=20)
    c.add_argument("--seed", type=int, default=0)
    c.add_argument("--device", choices=("auto", "cpu"), default="auto")
    c.set_defaults(run=train)
    c = commands.add_parser("table")
    c.add_argument("directory", type=pathlib.Path)
    c.add_argument("--limit", type=float, default=0.5, help="percent")
    c.set_defaults(run=table)
    args = parser.parse_args()
    raise SystemExit(args.run(args))


if __name__ == "__main__":
    main()
