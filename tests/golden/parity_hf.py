"""A Hugging Face directory (say, from `moec export`), loaded by transformers with the reference code.

    python parity_hf.py --modeling DIR --model EXPORTED --reference FILE  compare its logits with FILE's
    python parity_hf.py --modeling DIR --model EXPORTED --write FILE      write a reference for `moec check`

Computes in float64. FILE is a safetensors file in the format of `moec check`.
"""
import argparse
import json
import pathlib

import torch
from safetensors.torch import load_file

import golden
import reference_model


def read_weights(reference, directory):
    """The parameters as transformers reads them; a missing or unknown tensor is an error, not a warning."""
    config_class, modeling = reference
    model, info = modeling.DeepseekV2ForCausalLM.from_pretrained(
        directory, config=config_class.from_pretrained(directory), attn_implementation="eager",
        torch_dtype=torch.float32, output_loading_info=True)
    wrong = {kind: names for kind, names in info.items() if names}
    if wrong:
        raise SystemExit(f"{directory}: {wrong}")
    return {name: p.detach() for name, p in model.named_parameters()}


def compare(reference, config, weights, path, tolerance):
    stored = load_file(path)
    ids = stored["input_ids"]
    ids = (ids[0] if ids.dim() == 3 else ids).long()
    with reference_model.Float64(), torch.no_grad():
        model, _ = golden.build(reference, config, weights, torch.float64)
        logits = model(input_ids=ids, use_cache=False).logits
    if logits.shape != stored["logits"].shape:
        raise SystemExit(f"{path}: logits {list(stored['logits'].shape)}, model {list(logits.shape)}")
    difference = (logits - stored["logits"]).abs().max().item() / logits.abs().max().item()
    agree = difference <= tolerance
    print(f"logits: largest difference {difference:.2e} of the largest logit, tolerance {tolerance:.0e}: "
          f"{'equal' if agree else 'DIFFERENT'}")
    return 0 if agree else 1


def write(reference, config, weights, path, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    batches = torch.randint(config["vocab_size"], shape, generator=generator)
    found, gates = golden.run(reference, config, weights, batches, torch.float64)
    bf16_errors, _ = golden.run_bfloat16(reference, config, weights, batches, found, gates)
    golden.write_reference(path, batches, found, bf16_errors)
    print(f"{path}: loss {found['loss'].item():.6f}, {shape[0]} steps of {shape[1]} x {shape[2]} tokens, "
          f"smallest gap between logarithms of probabilities of a chosen and a rejected expert {gates.gap:.1e}")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modeling", required=True, help="directory of the reference code")
    parser.add_argument("--model", required=True, type=pathlib.Path)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--reference", type=pathlib.Path, help="compare with the logits in this file")
    what.add_argument("--write", type=pathlib.Path, help="write this file, from random tokens")
    parser.add_argument("--tolerance", type=float, default=2e-5)
    parser.add_argument("--shape", type=int, nargs=3, default=(3, 2, 32), metavar=("STEPS", "B", "S"))
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    reference = reference_model.load(args.modeling)
    config = json.loads((args.model / "config.json").read_text())
    weights = read_weights(reference, args.model)
    if args.reference:
        return compare(reference, config, weights, args.reference, args.tolerance)
    return write(reference, config, weights, args.write, args.shape, args.seed)


if __name__ == "__main__":
    raise SystemExit(main())
