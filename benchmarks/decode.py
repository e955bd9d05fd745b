#!/usr/bin/env python3
"""Times the transparent decoder's vote over eight views, the old pack's way and ours, in one run.

    .comfyui/venv/bin/python benchmarks/decode.py [--size 1024] [--channels-last]

The old pack decodes one view after another and takes `torch.median` over the stack. Both run with the
same network, device, dtype and number of threads, and random weights of the published shape. Rounds are
interleaved. Read the ratio of the medians.
"""

import argparse
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHANNELS = [32, 32, 64, 128, 256, 512, 512]
ATTENTION = [False, False, False, False, True, True, True]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, nargs="+", default=[256, 512], help="sides of square pictures, in pixels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--channels-last", action="store_true", help="on a GPU too; always used on a CPU")
    options = parser.parse_args()

    import torch

    cuda = torch.cuda.is_available()
    sys.argv = [sys.argv[0]] + ([] if cuda else ["--cpu"])
    sys.path[:0] = [str(ROOT / ".comfyui" / "app"), str(ROOT / "custom_nodes")]
    import comfy.options

    comfy.options.enable_args_parsing()
    from layerdiffuse_alpha import decode, views
    from layerdiffuse_alpha.decoder import TransparentDecoder

    torch.set_num_threads(options.threads)
    device, dtype = (torch.device("cuda"), torch.float16) if cuda else (torch.device("cpu"), torch.float32)
    torch.manual_seed(0)
    decoder = TransparentDecoder(CHANNELS, ATTENTION, blocks=2).requires_grad_(False)
    for name, parameter in decoder.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=parameter[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(parameter, float("norm" in name and name.endswith("weight")))
    decoder.conv_out.weight.mul_(0.2)
    decoder.conv_out.bias.fill_(0.5)
    plain = decoder.to(device, dtype)
    ours = TransparentDecoder.from_weights(plain.state_dict()).to(device, dtype)
    if not cuda or options.channels_last:
        ours = ours.to(memory_format=torch.channels_last)

    def old_way(pixels, latent):
        return one_after_another(views, plain, pixels, latent)

    def our_way(pixels, latent):
        view_bytes = pixels[:, 0].numel() * ours.activations_per_pixel * dtype.itemsize
        return decode._vote(ours, pixels, latent, 8, view_bytes)

    name = torch.cuda.get_device_name() if cuda else f"CPU, {options.threads} threads"
    print(f"{name}, {dtype}, {options.rounds} rounds")
    print("| size | old pack's way, ms | ours, ms | ratio | largest difference |")
    print("|---|---|---|---|---|")
    for size in options.size:
        pixels = torch.rand(1, 3, size, size, device=device, dtype=dtype)
        latent = torch.randn(1, 4, size // 8, size // 8, device=device, dtype=dtype)
        seconds = {old_way: [], our_way: []}
        results = {}
        for round_number in range(options.rounds + 1):  # the first is not counted
            for way, taken in seconds.items():
                begin = time.perf_counter()
                results[way] = way(pixels, latent)
                if cuda:
                    torch.cuda.synchronize()
                if round_number:
                    taken.append(time.perf_counter() - begin)
        old_s, ours_s = (statistics.median(taken) for taken in seconds.values())
        difference = (results[old_way] - results[our_way]).abs().max().item()
        print(
            f"| {size} | {old_s * 1e3:.1f} | {ours_s * 1e3:.1f} | {old_s / ours_s:.2f} | {difference:.1e} |", flush=True
        )


def one_after_another(views, decoder, pixels, latent):
    import torch

    decoded = []
    for orientation in views.ORIENTATIONS[8]:
        view = decoder(orientation.turn(pixels), orientation.turn(latent)).clamp(0, 1)
        decoded.append(orientation.turn_back(view))
    return torch.stack(decoded).median(dim=0).values


if __name__ == "__main__":
    main()
