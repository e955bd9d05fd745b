// The shown picture: backgrounds, alpha only, zoom, dragging it out.

import {pictureOf} from "./input.js";

const $ = id => document.getElementById(id);
const GROUNDS = ["board", "white", "black", "colour", "photo"];
let shown = null, source = "";

export const current = () => shown;

export function show(picture) {
  if (source.startsWith("blob:")) URL.revokeObjectURL(source);
  shown = picture;
  source = picture.blob ? URL.createObjectURL(picture.blob) : picture.url;
  paint();
}

export function paint() {
  const option = $("ground").querySelector("[value=given]");
  option.hidden = !shown || !pictureOf(shown.request) || Boolean(shown.request.trim);
  if (option.hidden && option.selected) $("ground").value = "board";
  const chosen = $("ground").value, stage = $("stage"), zoom = Number($("zoom").value);
  stage.className = "stage";
  stage.classList.toggle("all", chosen === "all");
  stage.classList.toggle("zoomed", zoom > 0);
  stage.classList.toggle("alpha-only", $("alpha").checked);
  const panels = (chosen === "all" ? GROUNDS : [chosen]).map(ground => panel(ground, zoom));
  stage.replaceChildren(...panels);
}

function panel(ground, zoom) {
  const box = document.createElement("div");
  box.className = "ground " + ground;
  if (ground === "colour") box.style.background = $("colour").value;
  if (shown === null) {
    const text = document.createElement("p");
    text.textContent = "No picture yet";
    box.append(text);
  } else {
    if (ground === "given") box.append(given(zoom));
    box.append(image(zoom));
  }
  return box;
}

function given(zoom) {  // the input picture, scaled and cropped as the worker did
  const canvas = document.createElement("canvas"), input = new Image();
  const {width, height} = shown.info;
  Object.assign(canvas, {width, height});
  enlarge(canvas, width, height, zoom);
  input.onload = () => {
    const scale = Math.max(width / input.naturalWidth, height / input.naturalHeight);
    const [inputWidth, inputHeight] = [input.naturalWidth * scale, input.naturalHeight * scale];
    canvas.getContext("2d").drawImage(input, (width - inputWidth) / 2, (height - inputHeight) / 2, inputWidth, inputHeight);
  };
  input.src = pictureOf(shown.request);
  return canvas;
}

function enlarge(element, width, height, zoom) {  // one pixel of the picture on `zoom` pixels of the screen
  if (!zoom) return;
  element.style.width = width * zoom / devicePixelRatio + "px";
  element.style.height = height * zoom / devicePixelRatio + "px";
}

function image(zoom) {
  const img = new Image();
  img.alt = shown.request.prompt;
  img.onload = () => enlarge(img, img.naturalWidth, img.naturalHeight, zoom);
  img.ondragstart = event => {
    const type = shown.filename.endsWith(".webp") ? "image/webp" : "image/png";
    event.dataTransfer.setData("DownloadURL", `${type}:${shown.filename}:${img.src}`);
  };
  img.src = source;
  return img;
}
