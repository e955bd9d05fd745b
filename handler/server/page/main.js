// The form, the actions, and what happens when.

import {call} from "./api.js";
import * as input from "./input.js";
import * as jobs from "./jobs.js";
import {snippets} from "./snippets.js";
import * as store from "./store.js";
import * as view from "./view.js";

const IDEAS = ["a red apple", "a red heart, sticker", "a blue fish", "a glass ball", "a soap bubble", "purple smoke"];
const OTHER_SIZE = "other";
const FIELDS = {  // ids of inputs by the names of request fields
  negative_prompt: "negative", num_inference_steps: "steps", guidance_scale: "guidance", width: "width", height: "height",
};
const $ = id => document.getElementById(id);
let running = null;  // the jobs that are being drawn, and whether they were cancelled
let isReady = false;

function setState(text, isBad = false) {
  $("state").textContent = text;
  $("state").className = isBad ? "bad" : "";
}

function setBar(step, steps) {  // without steps, the bar moves to and fro
  if (steps && step < steps) { $("bar").max = steps; $("bar").value = step; }
  else $("bar").removeAttribute("value");
}

async function loadLimits() {
  const description = await call("GET", "openapi.json");
  const resolve = schema => schema.$ref ? description.components.schemas[schema.$ref.split("/").pop()] : schema;
  const schema = resolve(description.paths["/alpha/v1/txt2img"].post.requestBody.content["application/json"].schema);
  const [first, ...others] = (schema.anyOf ?? [schema]).map(resolve);  // the first is the default workflow's
  for (const [name, id] of Object.entries(FIELDS)) {
    const {minimum, maximum, multipleOf, default: usual} = first.properties[name] ?? {};
    Object.assign($(id), {min: minimum ?? "", max: maximum ?? "", placeholder: usual ?? ""});
    if (multipleOf) $(id).step = multipleOf;
  }
  const isDemo = first["x-profile"] === "tiny";
  const {width: usualWidth, height: usualHeight} = first.properties;
  const usual = usualWidth && usualHeight ? `default (${usualWidth.default} x ${usualHeight.default})` : "default";
  const sizes = Object.entries(first.properties.size?.["x-presets"] ?? {});
  if (isDemo) $("width").max = $("height").max = Math.max(...sizes.flatMap(([, size]) => Object.values(size)));
  const options = sizes.map(([name, {width, height}]) => {
    const [shape, ...ratio] = name.split("_");
    return new Option(`${shape} ${ratio.join(":")} (${width} x ${height})`.replace("  ", " "), name);
  });
  $("size").replaceChildren(new Option(usual, ""), ...options, new Option("other…", OTHER_SIZE));
  const isFilled = schema => schema.required.every(name => ["prompt", "workflow", input.fieldOf(schema)].includes(name));
  const offered = others.filter(isFilled), names = offered.map(({properties}) => properties.workflow.const);
  $("workflows").hidden = !offered.length && !input.fieldOf(first);
  $("workflow").replaceChildren(new Option(first.properties.workflow?.default ?? "", ""), ...names.map(name => new Option(name, name)));
  $("workflow").onchange = () => input.use([first, ...offered][$("workflow").selectedIndex]);
  $("workflow").onchange();
  $("demo").hidden = !isDemo;
  isReady = true;
}

function readForm() {
  const request = {prompt: $("prompt").value};
  if ($("negative").value) request.negative_prompt = $("negative").value;
  if ($("size").value && $("size").value !== OTHER_SIZE) request.size = $("size").value;
  const isOther = $("size").value === OTHER_SIZE;
  for (const [name, id] of Object.entries(FIELDS)) {
    if (id !== "negative" && $(id).value && (isOther || (id !== "width" && id !== "height"))) request[name] = Number($(id).value);
  }
  if ($("workflow").value) request.workflow = $("workflow").value;
  if ($("seed").value) request.seed = Number($("seed").value);
  if ($("format").value !== "png") request.output_format = $("format").value;
  if ($("trim").checked) request.trim = true;
  return {...request, ...input.read()};
}

function fillForm(request) {
  $("prompt").value = request.prompt;
  for (const [name, id] of Object.entries(FIELDS)) $(id).value = request[name] ?? "";
  $("size").value = request.size ?? (request.width || request.height ? OTHER_SIZE : "");
  $("pixels").hidden = $("size").value !== OTHER_SIZE;
  $("workflow").value = request.workflow ?? "";
  $("workflow").onchange();
  input.fill(request);
  $("seed").value = request.seed ?? "";
  $("format").value = request.output_format ?? "png";
  $("trim").checked = Boolean(request.trim);
  $("count").value = 1;
}

function withSeeds(request, count) {  // several pictures differ only in their seeds, which count up
  const first = request.seed ?? crypto.getRandomValues(new Uint32Array(1))[0];
  return count === 1 ? [request] : Array.from({length: count}, (_, number) => ({...request, seed: first + number}));
}

async function draw(requests) {
  await run(async () => {
    if (!isReady) await loadLimits();
    for (const request of requests) {
      if (running.isStopped) break;
      const job = await jobs.submit(request);
      running.jobs.push(job);
      if (running.isStopped) await jobs.cancel(job);  // while it was submitted
    }
  });
}

async function run(begin) {  // draws the jobs that `begin` adds; a job that fails stops no other
  if (running) return;
  running = {jobs: [], isStopped: false};
  $("go").ariaDisabled = "true"; $("stop").hidden = false; $("bar").hidden = false;
  setBar(); setState("queued");
  let failure = null;
  try {
    await begin().catch(fault => { failure = fault; });
    const total = running.jobs.length;
    for (const [number, job] of running.jobs.entries()) {
      const before = total > 1 ? `picture ${number + 1} of ${total}: ` : "";
      try {
        const finished = await jobs.follow(job, (text, step, steps) => { setState(before + text); setBar(step, steps); });
        await keep(job, finished);
        if (!failure) setState(`done in ${(finished.executionTime / 1000).toFixed(1)} s`);
      } catch (fault) {
        failure = fault;
      }
    }
    if (failure) setState(failure.message, true);
  } finally {
    running = null;
    $("go").ariaDisabled = null; $("stop").hidden = true; $("bar").hidden = true;
  }
}

async function keep(job, {output}) {
  const type = output.filename.endsWith(".webp") ? "image/webp" : "image/png";
  const encoded = output.image_base64 ?? (output.url.startsWith("data:") ? output.url.split(",")[1] : null);
  const blob = encoded === null ? null : new Blob([Uint8Array.from(atob(encoded), byte => byte.charCodeAt(0))], {type});
  const request = {...job.request, seed: output.seed};
  const picture = {request, filename: output.filename, info: JSON.parse(output.info), blob, url: blob ? null : output.url};
  await store.add(picture);
  jobs.forget(job);
  show(picture);
  await showRecent();
}

function stop() {
  if (!running) return;
  running.isStopped = true;
  for (const job of running.jobs) jobs.cancel(job).catch(fault => setState(fault.message, true));
}

function show(picture) {
  view.show(picture);
  $("actions").hidden = false;
  for (const button of document.querySelectorAll("[data-snippet]")) button.hidden = Boolean(input.pictureOf(picture.request));
  const {request, info, blob} = picture, {width, height} = info.picture ?? info;
  const percent = share => Math.round(100 * share) + " %";
  const size = blob ? `${Math.round(blob.size / 1000)} kB, ` : "in the bucket, ";
  $("facts").textContent = `“${request.prompt}”, ${width}x${height}, seed ${request.seed}, `
    + `${percent(info.alpha.transparent)} transparent, ${percent(info.alpha.opaque)} opaque, ${size}${info.checkpoint}`;
}

async function showRecent() {
  const pictures = (await store.all()).reverse();
  $("history").hidden = !pictures.length;
  for (const image of $("last").querySelectorAll("img")) URL.revokeObjectURL(image.src);
  $("last").replaceChildren(...pictures.map(picture => {
    const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
    image.src = picture.blob ? URL.createObjectURL(picture.blob) : picture.url;
    image.alt = picture.request.prompt;
    button.type = "button"; button.title = picture.request.prompt;
    button.append(image); item.append(button);
    button.onclick = () => show(picture);
    return item;
  }));
}

function download({blob, url, filename}) {
  const link = document.createElement("a");
  link.href = blob ? URL.createObjectURL(blob) : url;
  link.download = filename;
  if (!blob) link.target = "_blank";  // a browser ignores `download` for other origins
  link.click();
  if (blob) setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function asPng({blob, url}) {  // the clipboard takes no other format
  const encoded = blob ?? await (await fetch(url)).blob();
  if (encoded.type === "image/png") return encoded;
  const bitmap = await createImageBitmap(encoded), canvas = document.createElement("canvas");
  canvas.width = bitmap.width; canvas.height = bitmap.height;
  canvas.getContext("2d").drawImage(bitmap, 0, 0);
  return new Promise(done => canvas.toBlob(done, "image/png"));
}

async function copy(write) {
  try {
    await write();
    setState("copied");
  } catch {
    setState("The browser did not allow this page to copy.", true);
  }
}

$("form").addEventListener("submit", event => {
  event.preventDefault();
  draw(withSeeds(readForm(), Number($("count").value)));
});
document.addEventListener("keydown", event => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit();
  if (event.key === "Escape" && !$("locked").open) stop();
});
$("stop").onclick = stop;
$("save").onclick = () => download(view.current());
$("copy").onclick = () => copy(() => navigator.clipboard.write([new ClipboardItem({"image/png": asPng(view.current())})]));
for (const button of document.querySelectorAll("[data-snippet]")) {
  button.onclick = () => copy(() => navigator.clipboard.writeText(snippets[button.dataset.snippet](view.current().request)));
}
$("reuse").onclick = () => fillForm(view.current().request);
$("next").onclick = () => {
  const {request} = view.current();
  fillForm({...request, seed: request.seed + 1});
  draw([readForm()]);
};
$("save-all").onclick = async () => (await store.all()).forEach(download);
$("forget").onclick = async () => { await store.clear(); await showRecent(); };
$("size").onchange = () => { $("pixels").hidden = $("size").value !== OTHER_SIZE; };
$("colour").oninput = () => { $("ground").value = "colour"; view.paint(); };
for (const id of ["ground", "zoom", "alpha"]) $(id).onchange = view.paint;
$("ideas").replaceChildren(...IDEAS.map(idea => {
  const button = document.createElement("button");
  button.type = "button"; button.textContent = idea;
  button.onclick = () => { $("prompt").value = idea; $("prompt").focus(); };
  return button;
}));
$("settings").open = matchMedia("(min-width: 52rem)").matches;
store.onChange(showRecent);
view.paint();
showRecent();
loadLimits().then(() => {
  const kept = jobs.unfinished();
  if (kept.length) run(async () => { running.jobs = kept; });
}, fault => setState(fault.message, true));
