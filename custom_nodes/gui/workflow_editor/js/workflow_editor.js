// SPDX-License-Identifier: GPL-3.0-or-later
// Opens the stored workflow when the GUI has started, and saves it back.

import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const ROUTE = "/layerdiffuse_alpha/workflow";
const START_MS = 500; // setup() runs before the GUI has opened its own first graph
const FIRST_DRAWING_MS = 300; // only then the GUI knows how large nodes are
const COMMAND = "layerdiffuse-alpha.save";

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
  setTimeout(fitView, FIRST_DRAWING_MS);
}

// The GUI shows a picture only on a node that is in view.
function fitView() {
  app.extensionManager.command.execute("Comfy.Canvas.FitView");
}

// Otherwise each run would change the seed that is saved.
function keepSeeds() {
  for (const node of app.graph.nodes) {
    for (const widget of node.widgets ?? []) {
      if (widget.name === "control_after_generate") widget.value = "fixed";
    }
  }
}

async function save() {
  const { output, workflow } = await app.graphToPrompt();
  const body = JSON.stringify({ graph: output, layout: workflow });
  const answer = await api.fetchApi(ROUTE, { method: "POST", body });
  if (!answer.ok) return notify("error", "Not saved", await answer.text());
  const { name, findings } = await answer.json();
  for (const node of app.graph.nodes) {
    node.has_errors = findings.some((finding) => finding.startsWith(`${node.title}: `));
  }
  app.graph.setDirtyCanvas(true, true);
  if (findings.length > 0) notify("error", "Not saved", findings.join("\n"));
  else notify("success", `Saved ${name}`, "A running server uses it for the next job.");
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
  commands: [{ id: COMMAND, label: "Save to worker", icon: "pi pi-save", function: save }],
  menuCommands: [{ path: ["File"], commands: [COMMAND] }],
  actionBarButtons: [{ icon: "pi pi-save", label: "Save to worker", tooltip: "Save to worker", onClick: save }],
  async init() {
    await app.extensionManager.setting.set("Comfy.TutorialCompleted", true); // no dialog over the graph
  },
  setup() {
    setTimeout(open, START_MS);
    window.addEventListener("keydown", saveInsteadOfGui, { capture: true });
  },
});
