# The worker as an image: ComfyUI, node packs, weights and our code (docs/docker.md, docs/deploy.md).
#
# MODELS: sdxl (downloaded and verified with models.txt), patch (its two small files; the checkpoint comes from a cache
# or volume), tiny (no GPU needed), none (weights from a volume).
# Layers that rarely change come first, so that a change in our code uploads only kilobytes.

ARG BASE_IMAGE=debian:bookworm-slim

FROM ${BASE_IMAGE} AS base
# Debian withdraws old versions, so a pinned one would soon not build.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates python3 tini \
    && rm -rf /var/lib/apt/lists/* /var/cache/apt/* /var/log/*

# Build stage: only the folders that later stages copy are in the image.
FROM base AS environments
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends git python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /app
COPY requirements requirements
COPY installer installer
COPY scripts/setup scripts/setup
COPY snapshot.json ./
ENV UV_SYSTEM_CERTS=1
RUN scripts/setup --no-bytecode \
    # Bytecode cannot be written in the image later, and compiling at each start takes longer than the start itself.
    && .venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .venv/lib \
    && .comfyui/venv/bin/python -m compileall -q -j 0 --invalidation-mode unchecked-hash .comfyui/venv/lib .comfyui/app; \
    test -x .comfyui/venv/bin/python && test -x .venv/bin/layerdiffuse-alpha

# What the worker does not use. The image has no C compiler, so it needs neither headers nor static libraries.
FROM environments AS slim
# 1: also without Triton (it needs that compiler) and without CUDA libraries that SDXL should not need (docs/docker.md).
ARG SLIM=0
RUN site="$(echo .comfyui/venv/lib/python3.*/site-packages)" \
    && rm -r "$site"/torch/include "$site"/nvidia/*/include \
    && find "$site" -name '*.a' -delete \
    && case "$SLIM" in \
        0) ;; \
        1) rm -r "$site"/triton "$site"/nvidia/cusolver "$site"/torch/lib/libtorch_cuda_linalg.so \
            "$site"/nvidia/cudnn/lib/libcudnn_adv.* "$site"/nvidia/cuda_nvrtc/lib/*.alt.* ;; \
        *) echo "SLIM must be 0 or 1, got $SLIM" >&2; exit 2 ;; \
    esac

FROM environments AS packs
COPY custom_nodes custom_nodes
RUN scripts/setup --no-bytecode

FROM environments AS weights
ARG MODELS=sdxl
# Optional: a mirror of the Hugging Face hub. It does not get HF_TOKEN.
ARG HF_ENDPOINT
COPY models models
COPY models.txt ./
# Only what `models` needs, so that other changes in our code do not download the weights again.
COPY handler/__init__.py handler/errors.py handler/proxies.py handler/settings.py handler/
COPY handler/workflow handler/workflow
COPY handler/weights handler/weights
COPY handler/cli handler/cli
RUN --mount=type=secret,id=HF_TOKEN \
    HF_TOKEN="$(cat /run/secrets/HF_TOKEN 2>/dev/null)"; \
    export HF_TOKEN; \
    case "$MODELS" in \
        sdxl) .venv/bin/python -m handler.cli.models fetch sdxl && .venv/bin/python -m handler.cli.models verify sdxl ;; \
        patch) \
            sed '/ checkpoints\//d' models.txt > /tmp/patch.txt \
            && MODELS_FILE=/tmp/patch.txt .venv/bin/python -m handler.cli.models fetch sdxl \
            && MODELS_FILE=/tmp/patch.txt .venv/bin/python -m handler.cli.models verify sdxl ;; \
        tiny) ;; \
        none) rm -rf models && mkdir models ;; \
        *) echo "MODELS must be sdxl, patch, tiny or none, got $MODELS" >&2; exit 2 ;; \
    esac \
    && rm -f models/.fetch.lock \
    # With fixed timestamps, the same weights make the same layer.
    && find models -exec touch -h -d @0 {} +

FROM base
LABEL org.opencontainers.image.title="layerdiffuse-alpha" \
    org.opencontainers.image.description="Text in, transparent PNG out: a RunPod worker with ComfyUI and LayerDiffuse" \
    org.opencontainers.image.licenses="Apache-2.0 AND GPL-3.0-or-later"
RUN useradd --uid 1000 --no-create-home --home-dir /tmp --shell /usr/sbin/nologin worker \
    && install -d -o worker -g worker /data
WORKDIR /app
COPY --from=slim /app/.comfyui/venv .comfyui/venv
COPY --from=environments /app/.comfyui/app .comfyui/app
COPY --from=weights /app/models models
COPY --from=environments /app/.venv .venv
COPY --from=environments /app/.comfyui/app.json .comfyui/
COPY --from=packs /app/.comfyui/data .comfyui/data
COPY LICENSE models.txt snapshot.json ./
COPY custom_nodes custom_nodes
COPY workflows workflows
COPY tools/healthcheck.py tools/healthcheck.py
COPY handler handler
ENV PATH=/app/.venv/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    DATA_DIR=/data \
    # NVIDIA's container runtime gives no GPU to a container without these.
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
# Set last, so that images with other weights share ComfyUI's layers.
ARG MODELS=sdxl
LABEL layerdiffuse-alpha.models="${MODELS}"
USER 1000:1000
EXPOSE 8000
HEALTHCHECK --interval=30s --timeout=10s --start-period=5m CMD ["python3", "/app/tools/healthcheck.py"]
ENTRYPOINT ["tini", "-s", "--", "layerdiffuse-alpha"]
CMD ["worker"]
