// Pictures that this browser keeps, in IndexedDB; if it has none, the page shows no recent pictures. Tabs share them.

const KEPT = 24;
const tabs = new BroadcastChannel("layerdiffuse-alpha");
const opening = new Promise((done, failed) => {
  const request = indexedDB.open("layerdiffuse-alpha", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("pictures", {autoIncrement: true});
  request.onsuccess = () => done(request.result);
  request.onerror = () => failed(request.error);
});
opening.catch(() => undefined);

async function run(mode, work) {
  const transaction = (await opening).transaction("pictures", mode);
  const request = work(transaction.objectStore("pictures"));
  return new Promise((done, failed) => {
    transaction.oncomplete = () => done(request.result);
    transaction.onerror = transaction.onabort = () => failed(transaction.error);
  });
}

export const all = () => run("readonly", store => store.getAll()).catch(() => []);

export async function add(picture) {
  if ((await all()).some(other => other.filename === picture.filename)) return;  // another tab has kept it
  await run("readwrite", store => {
    store.getAllKeys().onsuccess = event =>
      event.target.result.slice(0, Math.max(0, event.target.result.length - KEPT + 1)).forEach(key => store.delete(key));
    return store.add(picture);
  }).catch(() => undefined);
  tabs.postMessage("changed");
}

export async function clear() {
  await run("readwrite", store => store.clear()).catch(() => undefined);
  tabs.postMessage("changed");
}

export const onChange = work => { tabs.onmessage = work; };
