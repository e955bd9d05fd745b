// Uses RunPod's JavaScript client as its documentation does: node calls.js BASE_URL KEY
import runpodSdk from "runpod-sdk";

const [baseUrl, key] = process.argv.slice(2);
const endpoint = runpodSdk(key, { baseUrl }).endpoint("tests");
const input = { prompt: "an apple" };
const queued = await endpoint.run({ input });
const waited = await endpoint.statusSync(queued.id);
const status = await endpoint.status(queued.id);
const streamed = [];
for await (const part of endpoint.stream(queued.id)) streamed.push(part);
const sync = await endpoint.runSync({ input });
const health = await endpoint.health();
const purged = await endpoint.purgeQueue();
const cancelled = await endpoint.cancel(queued.id);
console.log(JSON.stringify({ queued, waited, status, streamed, sync, health, purged, cancelled }));
