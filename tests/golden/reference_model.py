"""The reference model code, imported from outside this repository, and made to compute in float64."""
import importlib
import pathlib
import sys
import types

import torch
from torch.overrides import TorchFunctionMode

FILES = ("configuration_deepseek.py", "modeling_deepseek.py")


def load(directory):
    """(configuration class, module) of the two files in DIRECTORY; they import each other relatively."""
    root = pathlib.Path(directory).resolve()
    for name in FILES:
        if not (root / name).is_file():
            raise SystemExit(f"{root}: no {name}; README.md beside this script says where to get it")
    package = types.ModuleType("reference_code")
    package.__path__ = [str(root)]
    sys.modules["reference_code"] = package
    sys.dont_write_bytecode = True
    modeling = importlib.import_module("reference_code.modeling_deepseek")
    return modeling.DeepseekV2Config, modeling


class Float64(TorchFunctionMode):
    """The model code asks for float32 by name in its norms, router, softmax, rotary tables and logits. Inside
    this mode each such request means float64, and an operator whose result is narrower is an error."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.float:
            func = torch.Tensor.double
        args = tuple(self._wide(a) for a in args)
        kwargs = {k: self._wide(v) for k, v in (kwargs or {}).items()}
        result = func(*args, **kwargs)
        for r in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(r, torch.Tensor) and r.is_floating_point() and r.dtype != torch.float64:
                raise TypeError(f"{func} gave {r.dtype} inside Float64")
        return result

    def __enter__(self):
        self.before = torch.get_default_dtype()
        torch.set_default_dtype(torch.float64)
        return super().__enter__()

    def __exit__(self, *exception):
        torch.set_default_dtype(self.before)
        return super().__exit__(*exception)

    @staticmethod
    def _wide(x):
        return torch.float64 if x is torch.float32 else x
