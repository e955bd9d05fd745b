// OpenAI's client for JavaScript, unchanged but for its base URL: node openai.js URL KEY
import { writeFileSync } from "node:fs";
import OpenAI from "openai";

const [baseURL, apiKey] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey, maxRetries: 0 });
const made = await client.images.generate({ prompt: "a red apple", n: 2, size: "128x128", output_format: "webp" });
made.data.forEach((image, number) => writeFileSync(`${number}.webp`, Buffer.from(image.b64_json, "base64")));
const [linked] = (await client.images.generate({ prompt: "a red apple", response_format: "url" })).data;
const picture = await fetch(linked.url);
const models = [];
for await (const model of client.models.list()) models.push(model.id);
const refused = await client.images.generate({ prompt: "x", n: 9 }).catch((error) => error);
console.log(JSON.stringify({
  pictures: made.data.length,
  linked: picture.headers.get("content-type"),
  models,
  refused: [refused.constructor.name, refused.status, refused.code, refused.message],
}));
