// Calls to the server, with the key that it asks for.

const KEY = "layerdiffuse-alpha.key";
const $ = id => document.getElementById(id);
let asking = null;

export class Fault extends Error {  // status: of the response; 0 if there was none
  constructor(message, status) { super(message); this.status = status; }
  get passes() { return this.status === 0 || this.status === 429 || this.status >= 500; }
}

export const hasKey = () => Boolean(sessionStorage.getItem(KEY));

export function headers() {
  const key = sessionStorage.getItem(KEY);
  return key ? {Authorization: "Bearer " + key} : {};
}

export async function call(method, path, body) {
  let answer;
  try {
    const type = body ? {"Content-Type": "application/json"} : {};
    answer = await fetch(path, {method, headers: {...headers(), ...type}, body: body && JSON.stringify(body)});
  } catch {
    throw new Fault("The server does not answer.", 0);
  }
  if (answer.status === 401 && await askForKey()) return call(method, path, body);
  const found = await answer.json().catch(() => null);
  if (!answer.ok) throw new Fault(found?.error?.message || "The server responded with HTTP " + answer.status, answer.status);
  return found;
}

function askForKey() {  // whether there is a new key; Escape and Cancel mean no
  asking ??= new Promise(done => {
    const dialog = $("locked");
    $("key").value = "";
    dialog.returnValue = "";
    dialog.showModal();  // the browser returns the focus to where it was
    dialog.onclose = () => {
      asking = null;
      const isGiven = dialog.returnValue === "key";
      if (isGiven) sessionStorage.setItem(KEY, $("key").value);
      done(isGiven);
    };
    $("give-up").onclick = () => dialog.close();
  });
  return asking;
}
