"""What the peer scripts share: timing on a GPU, and the model's configuration for transformers."""
import json
import pathlib
import statistics

import torch

PEAK = 989e12  # dense bfloat16 FLOP/s of an H100 or H200, basis of MFU


def milliseconds(function, runs=20, warm=5):
    """Median over runs, each waited for."""
    for _ in range(warm):
        function()
    torch.cuda.synchronize()
    times = []
    for _ in range(runs):
        begin, end = torch.cuda.Event(True), torch.cuda.Event(True)
        begin.record()
        function()
        end.record()
        torch.cuda.synchronize()
        times.append(begin.elapsed_time(end))
    return statistics.median(times)


def product_tflops(n=8192):
    """What a square product in bfloat16 reaches here."""
    x = torch.randn(n, n, device="cuda", dtype=torch.bfloat16)
    y = torch.randn_like(x)
    return 2 * n ** 3 / milliseconds(lambda: x @ y) / 1e9


def model_config(directory, layers=None):
    """config.json for the class of transformers, without the fields that name remote code."""
    import transformers
    fields = json.loads((pathlib.Path(directory) / "config.json").read_text())
    for key in ("auto_map", "architectures", "torch_dtype", "transformers_version"):
        fields.pop(key, None)
    fields["use_cache"] = False
    if fields.get("rope_scaling"):
        fields["rope_scaling"]["rope_type"] = fields["rope_scaling"].pop("type")
    if layers:
        fields["num_hidden_layers"] = layers
    return transformers.DeepseekV2Config(**fields)
