// The shown picture's request as a command or program.

import {hasKey} from "./api.js";

const address = () => new URL("alpha/v1/txt2img", location.href).href;
const python = value => ({true: "True", false: "False"})[value] ?? JSON.stringify(value);

export const snippets = {
  curl(request) {
    const body = JSON.stringify(request).replaceAll("'", "'\\''");
    const key = hasKey() ? ` \\\n  -H "Authorization: Bearer $API_KEY"` : "";
    return `curl -s '${address()}'${key} \\\n  -H 'Content-Type: application/json' \\\n  -d '${body}'`;
  },

  python(request) {
    const headers = hasKey() ? `{"Authorization": "Bearer " + os.environ["API_KEY"]}` : "{}";
    const body = Object.entries(request).map(([name, value]) => `    "${name}": ${python(value)},\n`).join("");
    return `${hasKey() ? "import os\n\n" : ""}import requests\n\nheaders = ${headers}\nrequest = {\n${body}}\n`
      + `answer = requests.post("${address()}", json=request, headers=headers, timeout=600)\nanswer.raise_for_status()\n`
      + `picture = requests.get(answer.json()["url"], headers=headers, timeout=60)\n`
      + `with open(answer.json()["filename"], "wb") as file:\n    file.write(picture.content)\n`;
  },

  javascript(request) {
    const headers = hasKey() ? "{Authorization: `Bearer ${process.env.API_KEY}`}" : "{}";
    return `import {writeFile} from "node:fs/promises";\n\nconst headers = ${headers};\n`
      + `const request = ${JSON.stringify(request, null, 2)};\n`
      + `const answer = await fetch("${address()}", {\n  method: "POST",\n`
      + `  headers: {...headers, "Content-Type": "application/json"},\n  body: JSON.stringify(request),\n});\n`
      + `if (!answer.ok) throw new Error(await answer.text());\nconst {url, filename} = await answer.json();\n`
      + `const picture = await fetch(url, {headers});\n`
      + `await writeFile(filename, Buffer.from(await picture.arrayBuffer()));\n`;
  },
};
