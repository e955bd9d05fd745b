"""One job, from request to picture. Knows nothing of RunPod or HTTP."""
