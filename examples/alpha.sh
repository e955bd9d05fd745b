#!/usr/bin/env bash
# The alpha API with curl: one request for the picture's URL, one for the picture
set -euo pipefail
base_url=${BASE_URL:-http://127.0.0.1:8000}
answer=$(curl -sSf -X POST "$base_url/alpha/v1/txt2img" \
    -H "Authorization: Bearer ${API_KEY:-none}" -H "Content-Type: application/json" \
    -d '{"prompt": "a blue star", "seed": 7}')
url=$(sed -E 's/.*"url": *"([^"]+)".*/\1/' <<<"$answer")
curl -sSf -H "Authorization: Bearer ${API_KEY:-none}" -o "${url##*/}" "$url"
echo "${url##*/}"
