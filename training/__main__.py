"""Trains the tiny model: python -m training STAGE …; judges pictures: python -m training judge --pictures FOLDER…"""

import argparse
import importlib
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("autoencoder", "transparency", "diffusion", "decoder", "layers", "turbo")
SEED = 2402_17113


def main() -> int:
    """Runs the stages that the command line names, in order."""
    parser = argparse.ArgumentParser(prog="scripts/train", description="Train the tiny model, stage by stage.")
    parser.add_argument("stages", nargs="*", choices=[*STAGES, "export", "judge"], help="default: all, then export")
    parser.add_argument("--pictures", type=Path, nargs="+", help="folders of RGBA pictures to judge")
    parser.add_argument("--device", default="auto", help="cpu, cuda or auto")
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--state", type=Path, default=ROOT / ".training" / "state", help="folder to continue from")
    parser.add_argument("--from-models", action="store_true", help="start each stage from the weights in models/")
    parser.add_argument("--steps", type=int, help="number of steps of each stage, instead of its own")
    options = parser.parse_args()
    if "judge" in options.stages and options.pictures is None:
        parser.error("judge needs --pictures FOLDER…")
    sys.argv = [sys.argv[0], "--cpu", "--use-pytorch-cross-attention"]  # what ComfyUI reads
    packs = ROOT / "custom_nodes"
    sys.path[:0] = [str(ROOT / ".comfyui/app"), str(packs / "tiny_sdxl"), str(packs / "layerdiffuse_alpha")]
    import comfy.options

    comfy.options.enable_args_parsing()
    import torch

    from training.place import Place

    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    options.state.mkdir(parents=True, exist_ok=True)
    place = Place(torch.device(device), options.state, options.seed, options.steps)
    if options.from_models:
        from training.committed import unpack

        unpack(place, ROOT / "models")
    for stage in options.stages or [*STAGES, "export"]:
        torch.manual_seed(options.seed)
        if stage == "judge":
            from training.judge import judge

            print(judge(place, options.pictures))
        else:
            importlib.import_module(f"training.{stage}").train(place)
    return 0


if __name__ == "__main__":
    sys.exit(main())
