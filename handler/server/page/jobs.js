// Jobs of this browser. Their ids are kept until their pictures are, so that a reload loses none.

import {call, Fault} from "./api.js";

const KEPT = "layerdiffuse-alpha.jobs";
const KEPT_CHARACTERS = 10_000;  // of a value; a picture would not fit
const POLL_MS = 150, SLOWEST_POLL_MS = 5000, TRIES = 30;
const IDLE_POLLS = 6;  // without progress, before the page asks for the place in the queue and whether ComfyUI restarts
const STAGES = {starting: "ComfyUI starts", loading: "loading the model"};  // others are shown as they are called
const sleep = ms => new Promise(done => setTimeout(done, ms));

export const unfinished = () => JSON.parse(localStorage.getItem(KEPT) || "[]");
const keep = jobs => localStorage.setItem(KEPT, JSON.stringify(jobs));
export const forget = job => keep(unfinished().filter(other => other.id !== job.id));

export async function submit(request) {
  const {id} = await call("POST", "v2/page/run", {input: request});
  const texts = Object.entries(request).filter(([, value]) => String(value).length <= KEPT_CHARACTERS);
  keep([...unfinished(), {id, request: Object.fromEntries(texts)}]);
  return {id, request};
}

export const cancel = job => call("POST", "v2/page/cancel/" + job.id);

// Returns the finished job; calls tell(text, step, steps) with what happens until then.
export async function follow(job, tell) {
  let failures = 0, pause = POLL_MS, idle = 0, last = null, place = 0;
  for (;; await sleep(pause)) {
    let found;
    try {
      found = await call("GET", "v2/page/status/" + job.id);
    } catch (fault) {
      if (fault.status === 404) forget(job);
      if (!fault.passes || ++failures > TRIES) throw fault;
      pause = Math.min(SLOWEST_POLL_MS, 2 * pause);
      tell(fault.message + " Trying again…");
      continue;
    }
    failures = 0; pause = POLL_MS;
    if (found.status === "COMPLETED") return found;
    if (found.status !== "IN_QUEUE" && found.status !== "IN_PROGRESS") {
      forget(job);
      throw new Fault(found.error || found.status, 200);
    }
    const progress = found.output ?? {stage: "queued"}, seen = JSON.stringify(progress);
    idle = seen === last ? idle + 1 : 0;
    last = seen;
    if (progress.stage === "queued" && idle % IDLE_POLLS === 0) place = await placeOf(job).catch(() => 0);
    if (idle > IDLE_POLLS && await isStarting()) tell(progress.steps ? "ComfyUI restarts" : "ComfyUI starts");
    else if (progress.stage === "sampling") tell(`step ${progress.step} of ${progress.steps}`, progress.step, progress.steps);
    else if (progress.stage === "queued" && place > 0) tell(`number ${place} in the queue`);
    else tell(STAGES[progress.stage] ?? progress.stage);
  }
}

async function placeOf(job) {  // in the queue, from 1; 0 if it is no longer there
  const {jobs} = await call("GET", "alpha/v1/jobs?status=IN_QUEUE&limit=1000");  // newest first
  const newer = jobs.findIndex(other => other.id === job.id);
  return newer < 0 ? 0 : jobs.length - newer;
}

const isStarting = () => fetch("ping").then(answer => answer.status === 204, () => false);
