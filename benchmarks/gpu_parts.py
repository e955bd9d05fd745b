#!/usr/bin/env python3
"""Times the parts of a picture in one process with ComfyUI's own code: benchmarks/gpu.py --everything runs it.

    .comfyui/venv/bin/python benchmarks/gpu_parts.py --models models [--tiny] [--size 1024]

Each line of standard output is a JSON object: `name`, and the median `ms` of one call after the warm-up, or `error`.
Lines that take long come last, so that a run which is cut off has the others.
"""

import argparse
import contextlib
import functools
import io
import itertools
import json
import os
import statistics
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NAMES = {  # checkpoint, transparent decoder
    False: ("sd_xl_base_1.0", "vae_transparent_decoder"),
    True: ("tiny_sdxl", "tiny_transparent_decoder"),
}
STEPS = 20
SIGMAS = 0.0292, 14.6146  # of SDXL
WARM_UPS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=Path, default=ROOT / "models")
    parser.add_argument("--tiny", action="store_true", help="the tiny model instead of SDXL's shapes")
    parser.add_argument("--size", type=int, default=1024, help="side of the picture, in pixels")
    parser.add_argument("--rounds", type=int, default=10)
    options = parser.parse_args()
    import torch

    comfyui = Path(os.environ.get("COMFYUI_DIR", ROOT / ".comfyui")) / "app"
    sys.argv = [sys.argv[0], "--gpu-only" if torch.cuda.is_available() else "--cpu"]
    sys.path[:0] = [str(comfyui), str(ROOT / "custom_nodes"), str(ROOT / "benchmarks")]
    import comfy.options

    comfy.options.enable_args_parsing()
    with torch.inference_mode():
        Parts(options).run()


class Parts:
    """Measures one part after another. A part that fails is a line with its error."""

    def __init__(self, options):
        import comfy.sd
        import torch

        self.torch = torch
        if options.tiny:
            import tiny_sdxl  # noqa: F401 -- registers the family
        checkpoint, self.decoder_name = NAMES[options.tiny]
        self.cuda = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.cuda else "cpu")
        self.models, self.size, self.rounds = options.models, options.size, options.rounds
        path = str(self.models / "checkpoints" / f"{checkpoint}.safetensors")
        begin_s = time.perf_counter()
        self.patcher, _, self.vae, _ = comfy.sd.load_checkpoint_guess_config(path)
        self.show("checkpoint: read and built", ms=(time.perf_counter() - begin_s) * 1e3)
        begin_s = time.perf_counter()
        comfy.model_management.load_models_gpu([self.patcher])
        self.show("U-Net: onto the device", ms=(time.perf_counter() - begin_s) * 1e3)
        shapes = self.patcher.model.model_config.unet_config
        side = self.size // 8
        torch.manual_seed(0)
        torch.set_num_threads(torch.get_num_threads() if self.cuda else 1)  # as the worker does on a CPU
        self.latent = torch.randn(1, 4, side, side, device=self.device)
        inputs = (2, 77, shapes["context_dim"]), (2, shapes["adm_in_channels"])
        context, vector = (torch.randn(shape, device=self.device) for shape in inputs)
        pair, sigma = self.latent.repeat(2, 1, 1, 1), torch.full((2,), 5.0, device=self.device)
        self.step = functools.partial(self.patcher.model.apply_model, pair, sigma, c_crossattn=context, y=vector)

    def run(self):
        for part in (
            *(self.machine, self.unet, self.attention, self.fp16_accumulation, self.autoencoder, self.decoder),
            *(self.noise, self.png, self.cuda_graph, self.channels_last, self.compiled),
        ):
            with self.errors_of(part.__name__):
                part()

    def show(self, name, **facts):
        rounded = {fact: round(value, 3) if isinstance(value, float) else value for fact, value in facts.items()}
        print(json.dumps({"name": name, **rounded}), flush=True)

    @contextlib.contextmanager
    def errors_of(self, name):
        try:
            yield
        except Exception as exc:
            self.show(name, error=f"{type(exc).__name__}: {exc}".splitlines()[0][:300])
            if self.cuda:
                self.torch.cuda.empty_cache()

    def time(self, name, work, rounds=None, **facts):
        """Shows the median of some calls, and the peak of the GPU's memory."""
        with self.errors_of(name):
            taken_s = []
            if self.cuda:
                self.torch.cuda.reset_peak_memory_stats()
            for number in range(WARM_UPS + (rounds or self.rounds)):
                self.wait()
                begin_s = time.perf_counter()
                work()
                self.wait()
                if number >= WARM_UPS:
                    taken_s.append(time.perf_counter() - begin_s)
            peak = {"peak_gb": self.torch.cuda.max_memory_allocated() / 1e9} if self.cuda else {}
            self.show(name, ms=statistics.median(taken_s) * 1e3, least_ms=min(taken_s) * 1e3, **peak, **facts)

    def wait(self):
        if self.cuda:
            self.torch.cuda.synchronize()

    def machine(self):
        if self.cuda:
            card = self.torch.cuda.get_device_properties(0)
            self.show("device", device=card.name, memory_gb=card.total_memory / 1e9, torch=self.torch.__version__)
        else:
            self.show("device", device="cpu", torch=self.torch.__version__)
        side, dtype = (8192, self.torch.float16) if self.cuda else (256, self.torch.float32)
        left, right = (self.torch.randn(side, side, device=self.device, dtype=dtype) for _ in range(2))
        self.time("matrix product", lambda: left @ right, tflop=2 * side**3 / 1e12)

    def unet(self):
        self.time("U-Net step", self.step)

    def attention(self):
        from comfy.ldm.modules import attention

        chosen = attention.optimized_attention, attention.optimized_attention_masked
        found = dict(attention.REGISTERED_ATTENTION_FUNCTIONS) | {"split": attention.attention_split}
        self.show("attention: ComfyUI's choice", function=chosen[0].__name__, registered=sorted(found))
        try:
            for name, function in found.items():
                attention.optimized_attention = attention.optimized_attention_masked = function
                self.time(f"U-Net step, attention {name}", self.step)
        finally:
            attention.optimized_attention, attention.optimized_attention_masked = chosen

    def fp16_accumulation(self):
        self.torch.backends.cuda.matmul.allow_fp16_accumulation = True
        try:
            self.time("U-Net step, fp16 accumulation", self.step)
        finally:
            self.torch.backends.cuda.matmul.allow_fp16_accumulation = False

    def autoencoder(self):
        self.time("VAE decode", lambda: self.vae.decode(self.latent), dtype=str(self.vae.vae_dtype))

    def decoder(self):
        import comfy.utils
        from decode import one_after_another
        from layerdiffuse_alpha import views
        from layerdiffuse_alpha.decoder import TransparentDecoder

        dtype = self.torch.float16 if self.cuda else self.torch.float32
        weights = comfy.utils.load_torch_file(str(self.models / "layer_model" / f"{self.decoder_name}.safetensors"))
        pixels = self.torch.rand(1, 3, self.size, self.size, device=self.device, dtype=dtype)
        latent = self.latent.to(dtype)
        for layout in (self.torch.contiguous_format, self.torch.channels_last):
            decoder = TransparentDecoder.from_weights(weights).to(self.device, dtype).to(memory_format=layout)
            name = f"8-view decode, {'channels last' if layout is self.torch.channels_last else 'contiguous'}"
            inputs = [tensor.contiguous(memory_format=layout) for tensor in (pixels, latent)]
            for at_once in (8, 4, 2, 1):
                work = functools.partial(views.decode, decoder, *inputs, 8, at_once)
                self.time(f"{name}, {at_once} at once", work, rounds=3)
            if layout is self.torch.contiguous_format:
                work = functools.partial(one_after_another, views, decoder, *inputs)
                self.time("8-view decode, the old pack's way", work, rounds=3)

    def noise(self):
        from comfy.k_diffusion import sampling

        sigmas = sampling.get_sigmas_karras(STEPS, *SIGMAS)[:-1]

        def tree(cpu):
            noise = sampling.BrownianTreeNoiseSampler(self.latent, *SIGMAS, seed=1, cpu=cpu)
            for pair in itertools.pairwise(sigmas):
                noise(*pair)

        def plain():
            for _ in sigmas:
                self.torch.randn_like(self.latent)

        self.time("noise of a picture, made on the CPU", lambda: tree(cpu=True), rounds=3)
        self.time("noise of a picture, made on the device", lambda: tree(cpu=False), rounds=3)
        self.time("noise of a picture, plain randn", plain, rounds=3)

    def png(self):
        from layerdiffuse_alpha import png
        from PIL import Image

        side = self.torch.linspace(0, 1, self.size, device=self.device)
        grain = self.torch.rand(self.size, self.size, 4, device=self.device) * 0.01
        picture = (side[:, None, None] * side[None, :, None]).expand(-1, -1, 4) * 0.9 + grain
        self.time("PNG, from the device to bytes", lambda: png.encode(picture))
        self.time("alpha statistics", lambda: png.alpha_statistics(picture[None]))
        pixels = Image.fromarray(png.quantise(picture))
        work = functools.partial(pixels.save, format="PNG", compress_level=4)
        self.time("PNG as SaveImage encodes it", lambda: work(io.BytesIO()), rounds=3)

    def cuda_graph(self):
        if not self.cuda:
            self.show("U-Net step, CUDA graph", error="needs CUDA")
            return
        stream, graph = self.torch.cuda.Stream(), self.torch.cuda.CUDAGraph()
        with self.torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self.step()
        self.wait()
        with self.torch.cuda.graph(graph, stream=stream):
            self.step()
        self.time("U-Net step, CUDA graph", graph.replay)

    def channels_last(self):
        self.patcher.model.diffusion_model.to(memory_format=self.torch.channels_last)
        self.time("U-Net step, channels last", self.step)
        self.patcher.model.diffusion_model.to(memory_format=self.torch.contiguous_format)

    def compiled(self):
        from torch._dynamo import config

        plain = self.patcher.model.diffusion_model
        backend = "inductor" if self.cuda else "eager"  # a CPU needs a C++ compiler, and minutes
        config.recompile_limit = 64  # with fewer, some blocks are not compiled
        try:
            self.patcher.model.diffusion_model = self.torch.compile(plain, backend=backend)
            begin_s = time.perf_counter()
            self.step()
            self.wait()
            compile_s = time.perf_counter() - begin_s
            self.time(f"U-Net step, torch.compile, {backend}", self.step, compile_s=compile_s)
        finally:
            self.patcher.model.diffusion_model = plain


if __name__ == "__main__":
    main()
