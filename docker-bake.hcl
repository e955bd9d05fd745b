# docker buildx bake [worker | worker-patch | worker-tiny | worker-slim]; REPOSITORY and TAG set the image's name

variable "REPOSITORY" { default = "layerdiffuse-alpha" }
variable "TAG" { default = "latest" }
variable "BASE_IMAGE" { default = "debian:bookworm-slim" }
variable "SLIM" { default = "0" } # 1: without Triton and some CUDA libraries (docs/docker.md)
variable "HF_ENDPOINT" { default = "https://huggingface.co" } # or a mirror, which does not get HF_TOKEN

group "default" { targets = ["worker"] }

target "common" {
  platforms = ["linux/amd64"]
  args = { BASE_IMAGE = BASE_IMAGE, SLIM = SLIM }
}

# Includes SDXL's weights, for GPU workers. HF_TOKEN is passed as a build secret if it is set.
target "worker" {
  inherits = ["common"]
  args = { MODELS = "sdxl", HF_ENDPOINT = HF_ENDPOINT }
  tags = ["${REPOSITORY}:${TAG}"]
  secret = ["type=env,id=HF_TOKEN,env=HF_TOKEN"]
}

# Includes the LayerDiffuse patch and decoder (0.95 GB); SDXL comes from RunPod's model cache or a volume.
target "worker-patch" {
  inherits = ["worker"]
  args = { MODELS = "patch" }
  tags = ["${REPOSITORY}:${TAG}-patch"]
}

# Includes the tiny model, which runs on a CPU.
target "worker-tiny" {
  inherits = ["common"]
  args = { MODELS = "tiny" }
  tags = ["${REPOSITORY}:${TAG}-tiny"]
}

# Without weights; they come from a network volume or a Hugging Face cache.
target "worker-slim" {
  inherits = ["common"]
  args = { MODELS = "none" }
  tags = ["${REPOSITORY}:${TAG}-slim"]
}
