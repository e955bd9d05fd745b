// SPDX-License-Identifier: GPL-3.0-or-later
// Opens the stored workflow when the GUI has started, and saves it back.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const ROUTE = "/layerdiffuse_alpha/workflow";
const START_MS = 500; // setup() runs before the GUI has opened its own first graph
const FIRST_DRAWING_MS = 300; // only then the GUI knows how large nodes are
const COMMAND = "layerdiffuse-alpha.save";
const COMMAND_AS = "layerdiffuse-alpha.save-as";
let opened = ""; // name of the workflow that is edited

function notify(severity, summary, detail = "") {
  app.extensionManager.toast.add({ severity, summary, detail, life: severity === "error" ? 30000 : 5000 });
}

async function open() {
  const answer = await api.fetchApi(ROUTE);
  if (!answer.ok) return notify("error", "The stored workflow cannot be opened", await answer.text());
  const { name, graph, layout } = await answer.json();
  if (layout) await app.loadGraphData(layout, true, true, name);
  else app.loadApiJson(graph, name);
  keepSeeds();
  opened = name;
  setTimeout(fitView, FIRST_DRAWING_MS);
}

// The GUI shows a picture only on a node that is in view.
async function fitView() {
  await app.extensionManager.command.execute("Comfy.Canvas.FitView");
  document.body.dataset.workflow = opened; // what browser tests wait for
}

// Otherwise each run would change the seed that is saved.
function keepSeeds() {
  for (const node of app.graph.nodes) {
    for (const widget of node.widgets ?? []) {
      if (widget.name === "control_after_generate") widget.value = "fixed";
    }
  }
}

// Sends the graph with `more`, and returns the answer; shows why it was not saved.
async function send(more = {}) {
  if (!opened) {
    notify("warn", "Not saved", "The stored workflow is still being opened.");
    return null;
  }
  const { output, workflow } = await app.graphToPrompt();
  const body = JSON.stringify({ name: opened, graph: output, layout: workflow, ...more });
  const answer = await api.fetchApi(ROUTE, { method: "POST", body });
  if (!answer.ok) {
    notify("error", "Not saved", await answer.text());
    return null;
  }
  const found = await answer.json();
  for (const node of app.graph.nodes) {
    node.has_errors = found.findings.some((finding) => finding.startsWith(`${node.title}: `));
  }
  app.graph.setDirtyCanvas(true, true);
  if (found.findings.length === 0) return found;
  notify("error", "Not saved", found.findings.join("\n"));
  return null;
}

async function save() {
  if (await send()) notify("success", `Saved ${opened}`, "A running server uses it for the next job.");
}

async function saveAs() {
  const { dialog } = app.extensionManager;
  const answer = await dialog.prompt({
    title: "Save to worker as",
    message: "Name of the new workflow",
    defaultValue: `${opened}_2`,
  });
  const name = answer?.trim();
  if (!name) return;
  const guessed = await send({ new_name: name });
  if (!guessed) return;
  const message = "Callers can set these inputs. To change that, edit the params file after saving.";
  const confirmed = await dialog.confirm({ title: `Save ${name}`, message, itemList: guessed.fields });
  if (!confirmed || !(await send({ new_name: name, confirmed }))) return;
  opened = name;
  notify("success", `Saved ${name}`, "A request chooses it with the field workflow.");
}

// The GUI's own Ctrl+S cannot be bound again; it would save where no worker looks.
function saveInsteadOfGui(event) {
  if (event.key !== "s" || !(event.ctrlKey || event.metaKey) || event.shiftKey) return;
  event.preventDefault();
  event.stopImmediatePropagation();
  save();
}

app.registerExtension({
  name: "layerdiffuse-alpha.workflow-editor",
  commands: [
    { id: COMMAND, label: "Save to worker", icon: "pi pi-save", function: save },
    { id: COMMAND_AS, label: "Save to worker as …", icon: "pi pi-copy", function: saveAs },
  ],
  menuCommands: [{ path: ["File"], commands: [COMMAND, COMMAND_AS] }],
  actionBarButtons: [{ icon: "pi pi-save", label: "Save to worker", tooltip: "Save to worker", onClick: save }],
  async init() {
    await app.extensionManager.setting.set("Comfy.TutorialCompleted", true); // no dialog over the graph
  },
  setup() {
    setTimeout(open, START_MS);
    window.addEventListener("keydown", saveInsteadOfGui, { capture: true });
  },
});
