// The picture that a workflow starts from.

const $ = id => document.getElementById(id);
let field = null, isRequired = false, picture = null;  // the picture is a data URL

export const fieldOf = schema => Object.keys(schema.properties).find(name => schema.properties[name].format === "image");
export const pictureOf = request => Object.values(request).find(value => String(value).startsWith("data:image/"));
export const read = () => field && picture ? {[field]: picture} : {};
export const fill = request => give(pictureOf(request) ?? picture);

export function use(schema) {  // shows the field for the picture, if the workflow has one
  field = fieldOf(schema);
  isRequired = schema.required.includes(field);
  $("input").hidden = !field;
  $("input").querySelector("label").textContent = (field ?? "").replaceAll("_", " ");
  give(picture);
}

function give(url) {
  picture = url;
  $("given").hidden = !url;
  if (url) $("given").src = url;
  $("file").required = Boolean(field) && isRequired && !url;
}

$("file").onchange = () => {
  const [file] = $("file").files, reader = new FileReader();
  reader.onload = () => give(reader.result);
  if (file) reader.readAsDataURL(file);
};
