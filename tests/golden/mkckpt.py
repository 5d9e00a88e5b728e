"""Write a synthetic checkpoint FILE the way the published one is laid out (container, prefix, extra top-level entries).
python -m tests.golden.mkckpt NAME OUT        NAME.json beside this file; also importable: make(name, out)"""

import argparse
import json
import os
import sys
import warnings

import numpy as np
import torch

from tests.golden import weights as W

HERE = os.path.dirname(os.path.abspath(__file__))


def state(name, shrink=False, keep=""):
    """(the JSON, the state dict). shrink: at most three values an axis. keep: only these prefixes."""
    with open(f"{HERE}/{name}.json") as file:
        j = json.load(file)
    tied = j.get("tied_to") or {}
    g = f"{HERE}/golden_{name}.npz"
    const = {k[6:]: v for k, v in np.load(g).items() if k.startswith("const/")} if os.path.exists(g) else {}
    rpi = next(
        (v for k, v in const.items() if k.endswith("relative_position_index")), None
    )  # same 7x7 table in every Swin block
    ints = {"input_resolution": 224, "context_length": 77, "vocab_size": 49408}
    sd = {}
    for k, (shape, dtype) in j["state_dict"].items():
        if not k.startswith(keep):
            continue
        if shrink:
            shape = [min(n, 3) for n in shape]
        if k in ints:
            v = np.array(ints[k])
        elif k.endswith("relative_position_index") and rpi is not None and not shrink:
            v = rpi
        else:
            v = W.tensor(tied.get(k, k), shape, dtype)
        sd[k] = torch.from_numpy(np.array(v)).reshape(tuple(shape))
    return j, sd


class _H(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


def jit_archive(sd, out):
    root = _H()
    for k, v in sd.items():
        m = root
        *path, leaf = k.split(".")
        for p in path:
            if p not in m._modules:
                m.add_module(p, _H())
            m = m._modules[p]
        if v.is_floating_point():
            m.register_parameter(leaf, torch.nn.Parameter(v, requires_grad=False))
        else:
            m.register_buffer(leaf, v)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", DeprecationWarning
        )  # the published archives are TorchScript all the same
        torch.jit.save(torch.jit.script(root), out)


def make(name, out, extras=True, shrink=False):
    j, sd = state(name, shrink)
    c = j["container"]
    if c and c.startswith("TorchScript"):
        jit_archive(sd, out)
        return out
    if c is None:
        torch.save(sd, out)
        return out
    top = {c: sd}
    if extras:
        ns = argparse.Namespace(lr=1e-4, work_dir="x", epochs=1)
        lin = torch.nn.Linear(2, 2)
        opt = torch.optim.AdamW(lin.parameters())
        lin(torch.ones(1, 2)).sum().backward()
        opt.step()
        for e in j["extra_top_level"]:
            key = e.split()[0].rstrip("?").strip(",")
            if key in ("as", "maybe"):
                continue
            if "Namespace" in e:
                top[key] = ns
            elif "object" in e:
                top[key] = opt
            elif key.startswith("optimizer"):
                top[key] = opt.state_dict()
            elif key in ("arch",):
                top[key] = "resnet18"
            else:
                top[key] = 1
    torch.save(top, out)
    return out


if __name__ == "__main__":
    print(make(*sys.argv[1:3]))
