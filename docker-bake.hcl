# docker buildx bake [worker | worker-tiny | worker-slim]; REPOSITORY and TAG name what comes of it

variable "REPOSITORY" { default = "layerdiffuse-alpha" }
variable "TAG" { default = "latest" }
variable "BASE_IMAGE" { default = "debian:bookworm-slim" }
variable "HF_ENDPOINT" { default = "https://huggingface.co" }

group "default" { targets = ["worker"] }

target "common" {
  platforms = ["linux/amd64"]
  args = { BASE_IMAGE = BASE_IMAGE }
}

# SDXL's weights baked in: for GPU workers.
target "worker" {
  inherits = ["common"]
  args = { MODELS = "sdxl", HF_ENDPOINT = HF_ENDPOINT }
  tags = ["${REPOSITORY}:${TAG}"]
  secret = ["type=env,id=HF_TOKEN,env=HF_TOKEN"]
}

# The tiny model baked in: answers on a CPU.
target "worker-tiny" {
  inherits = ["common"]
  args = { MODELS = "tiny" }
  tags = ["${REPOSITORY}:${TAG}-tiny"]
}

# No weights: they come from a network volume.
target "worker-slim" {
  inherits = ["common"]
  args = { MODELS = "none" }
  tags = ["${REPOSITORY}:${TAG}-slim"]
}
