"""The table of bench/peers/h200.sh from the JSON that moec and the peers printed into one directory.

    python bench/peers/compare.py DIR

Reads grouped.json and grouped-peer.json, step.json and step-peer.json; a pair of which one is missing is left out.
"""
import json
import pathlib
import sys


def read(path):
    return json.loads(path.read_text()) if path.is_file() and path.stat().st_size else None


def compare_grouped(ours, peer):
    print(f"The experts' products; torch {peer['torch']}, square product {peer['product_tflops']:.0f} TFLOP/s there")
    print(f"{'tokens':>7} {'experts':>7} {'moec ms':>15} {'MFU':>7} {'torch ms':>15} {'MFU':>7} {'ratio':>6}  "
          "fastest of torch")
    theirs = {(r["tokens"], r["experts"]): r for r in peer["rows"]}
    for r in ours:
        p = theirs.get((r["tokens"], r["experts"]))
        if not p:
            continue
        ratio = (p["forward_ms"] + p["backward_ms"]) / (r["forward_ms"] + r["backward_ms"])
        print(f"{r['tokens']:7} {r['experts']:7} {r['forward_ms']:7.3f} {r['backward_ms']:7.3f} {100 * r['mfu']:6.1f}% "
              f"{p['forward_ms']:7.3f} {p['backward_ms']:7.3f} {100 * p['mfu']:6.1f}% {ratio:6.2f}  {p['variant']}")


def compare_step(ours, peer):
    if (ours["tokens"], ours["layers"]) != (peer["tokens"], peer["layers"]):
        raise SystemExit(f"steps of {ours['tokens']} tokens, {ours['layers']} layers and of {peer['tokens']}, "
                         f"{peer['layers']}")
    print(f"A step of {ours['tokens']} tokens, {ours['layers']} layers; transformers {peer['transformers']}, square "
          f"product {peer['product_tflops']:.0f} TFLOP/s there")
    for name, seconds in (("moec", ours["seconds"]), ("transformers", peer["seconds"])):
        print(f"{name:12} {seconds:8.3f} s {ours['tokens'] / seconds:9.0f} tokens/s")
    print(f"ratio {peer['seconds'] / ours['seconds']:.2f}")


def main():
    directory = pathlib.Path(sys.argv[1])
    for name, compare in (("grouped", compare_grouped), ("step", compare_step)):
        ours, peer = read(directory / f"{name}.json"), read(directory / f"{name}-peer.json")
        if ours and peer:
            compare(ours, peer)


if __name__ == "__main__":
    main()
