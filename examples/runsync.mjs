// One request, one picture, with Node's own fetch: BASE_URL=http://127.0.0.1:8000 node examples/runsync.mjs
import { writeFileSync } from "node:fs";

const { BASE_URL = "https://api.runpod.ai", ENDPOINT_ID = "local", RUNPOD_API_KEY = "none" } = process.env;
const answer = await fetch(`${BASE_URL}/v2/${ENDPOINT_ID}/runsync`, {
  method: "POST",
  headers: { Authorization: `Bearer ${RUNPOD_API_KEY}`, "Content-Type": "application/json" },
  body: JSON.stringify({ input: { prompt: "a blue star" } }),
});
const job = await answer.json();
if (job.status !== "COMPLETED") throw new Error(job.error?.message ?? job.error ?? job.status);
writeFileSync(job.output.filename, Buffer.from(job.output.image_base64, "base64"));
console.log(job.output.filename);
