/* Stands in for the NVIDIA driver's libnvidia-ml.so.1: NVML's functions that handler/comfyui/gpu.py calls, with
   answers from the environment. Signatures: NVML API reference guide. */
#include <stdlib.h>
#include <string.h>

static const char *setting(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static long long number(const char *name, const char *otherwise) { return atoll(setting(name, otherwise)); }

static int text(const char *value, char *buffer, unsigned size) {
    strncpy(buffer, value, size);
    return 0;
}

int nvmlInitWithFlags(unsigned flags) { return number("NVML_INIT_STATUS", "0"); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = number("NVML_COUNT", "1"); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) { *handle = (void *)(long)(index + 1); return 0; }
int nvmlDeviceGetName(void *handle, char *name, unsigned size) {
    return text(setting("NVML_NAME", "NVIDIA GeForce RTX 4090"), name, size);
}
int nvmlSystemGetDriverVersion(char *version, unsigned size) {
    return text(setting("NVML_DRIVER", "570.124.06"), version, size);
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { *version = number("NVML_CUDA", "12080"); return 0; }
int nvmlDeviceGetCudaComputeCapability(void *handle, int *major, int *minor) {
    *major = number("NVML_CAPABILITY", "89") / 10;
    *minor = number("NVML_CAPABILITY", "89") % 10;
    return 0;
}
int nvmlDeviceGetMemoryInfo(void *handle, unsigned long long *memory) { /* total, free, used */
    memory[0] = number("NVML_MEMORY_BYTES", "25757220864");
    memory[2] = number("NVML_USED_BYTES", "500000000");
    memory[1] = memory[0] - memory[2];
    return number("NVML_MEMORY_STATUS", "0");
}
