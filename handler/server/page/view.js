// The shown picture: backgrounds, alpha only, zoom, dragging it out.

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
    box.append(image(zoom));
  }
  return box;
}

function image(zoom) {
  const img = new Image();
  img.alt = shown.request.prompt;
  img.onload = () => {  // one pixel of the picture on `zoom` pixels of the screen
    if (!zoom) return;
    img.style.width = img.naturalWidth * zoom / devicePixelRatio + "px";
    img.style.height = img.naturalHeight * zoom / devicePixelRatio + "px";
  };
  img.ondragstart = event => {
    const type = shown.filename.endsWith(".webp") ? "image/webp" : "image/png";
    event.dataTransfer.setData("DownloadURL", `${type}:${shown.filename}:${img.src}`);
  };
  img.src = source;
  return img;
}
