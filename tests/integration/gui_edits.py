"""Edits of the stored workflow, as JavaScript that runs in ComfyUI's GUI."""

HELPERS = """
const find = (title) => app.graph.nodes.find((node) => node.title === title);
const set = (title, name, value) => { find(title).widgets.find((widget) => widget.name === name).value = value; };
const add = (type, title) => {
  const node = LiteGraph.createNode(type);
  app.graph.add(node);
  if (title) node.title = title;
  return node;
};
const connect = (source, output, target, input) => source.connect(output, target, target.findInputSlot(input));
const replace = (source, type, target, input, after = 0) => {
  const node = add(type);
  source.connect(after, node, 0);
  connect(node, 0, target, input);
  return node;
};
const subgraph = (...titles) => app.graph.convertToSubgraph(new Set(titles.map(find)));
"""

EDITS = {
    "nothing": "",
    "steps": "set('Sampler', 'steps', 13);",
    "sampler": "set('Sampler', 'sampler_name', 'euler'); set('Sampler', 'scheduler', 'normal');",
    "passes": "set('Alpha Decode', 'passes', 1);",
    "title": "find('Prompt').title = 'My Prompt';",
    "sampler deleted and added": """
        app.graph.remove(find('Sampler'));
        const sampler = add('KSampler');
        connect(find('Transparency Patch'), 0, sampler, 'model');
        connect(find('Prompt'), 0, sampler, 'positive');
        connect(find('Negative Prompt'), 0, sampler, 'negative');
        connect(find('Size'), 0, sampler, 'latent_image');
        connect(sampler, 0, find('VAE Decode'), 'samples');
        connect(sampler, 0, find('Alpha Decode'), 'samples');""",
    "patch bypassed": "find('Transparency Patch').mode = 4;",
    "decoder muted": "find('Alpha Decode').mode = 2;",
    "output deleted": "app.graph.remove(find('Alpha PNG'));",
    "SaveImage as output": """
        app.graph.remove(find('Alpha PNG'));
        find('Alpha Decode').connect(0, add('SaveImage'), 0);""",
    "steps from Int": """
        const number = add('PrimitiveInt', 'Steps');
        number.widgets[0].value = 8;
        connect(number, 0, find('Sampler'), 'steps');""",
    "steps from Primitive": """
        const primitive = add('PrimitiveNode');
        connect(primitive, 0, find('Sampler'), 'steps');
        primitive.widgets[0].value = 7;""",
    "prompt from String": """
        const text = add('PrimitiveString', 'Text');
        text.widgets[0].value = 'a blue fish';
        connect(text, 0, find('Prompt'), 'text');""",
    "second text joined": """
        const second = add('CLIPTextEncode', 'Second Prompt');
        second.widgets[0].value = 'on a table';
        connect(find('Checkpoint'), 1, second, 'clip');
        const both = add('ConditioningConcat');
        connect(find('Prompt'), 0, both, 'conditioning_to');
        connect(second, 0, both, 'conditioning_from');
        connect(both, 0, find('Sampler'), 'positive');""",
    "text computed": """
        const join = add('StringConcatenate');
        join.widgets[0].value = 'a red apple';
        join.widgets[1].value = 'on a table';
        connect(join, 0, find('Prompt'), 'text');""",
    "ImageScale": "replace(find('Alpha Decode'), 'ImageScale', find('Alpha PNG'), 'images');",
    "LoRA without a file": """
      replace(find('Checkpoint'), 'LoraLoaderModelOnly', find('Transparency Patch'), 'model');
      find('Load LoRA').widgets[0].value = null;
    """,
    "LoRA bypassed": """
        replace(find('Checkpoint'), 'LoraLoaderModelOnly', find('Transparency Patch'), 'model').mode = 4;""",
    "two outputs": "find('Alpha Decode').connect(0, add('SaveAlphaImageWebsocket'), 0);",
    "preview left": "find('VAE Decode').connect(0, add('PreviewImage'), 0);",
    "reroute": "replace(find('Size'), 'Reroute', find('Sampler'), 'latent_image');",
    "two reroutes": """
        const first = replace(find('Checkpoint'), 'Reroute', find('Prompt'), 'clip', 1);
        replace(first, 'Reroute', find('Negative Prompt'), 'clip');""",
    "subgraph": "subgraph('VAE Decode', 'Alpha Decode');",
    "subgraph with widgets": "subgraph('Prompt', 'Negative Prompt', 'Size');",
    "widget of a subgraph": "subgraph('Prompt', 'Negative Prompt').node.widgets[0].value = 'a blue ball';",
    "subgraph bypassed": "subgraph('Transparency Patch').node.mode = 4;",
    "subgraph in a subgraph": """
        const inner = subgraph('VAE Decode').node;
        app.graph.convertToSubgraph(new Set([inner, find('Alpha Decode')]));""",
    "batch and width": "set('Size', 'batch_size', 2); set('Size', 'width', 1000);",
    "same titles": "find('Prompt').title = 'Negative Prompt';",
    "note, colour and group": """
        for (const [type, text] of [['Note', 'a remark'], ['MarkdownNote', '# A remark']]) {
          const note = add(type);
          note.widgets[0].value = text;
          note.setSize([240, 120]);
        }
        find('Sampler').color = '#322';
        find('Sampler').bgcolor = '#533';
        const group = new LiteGraph.LGraphGroup('Sampling');
        group.color = '#88a';
        group.pos = [600, -50];
        group.size = [400, 500];
        app.graph.add(group);""",
    "collapsed and pinned": "find('Size').collapse(); find('Checkpoint').pin();",
    "number as text": "set('Prompt', 'text', '0.5'); set('Sampler', 'cfg', 5.5);",
    "image loaded": """
        const load = add('LoadImage', 'Picture');
        const encode = add('VAEEncode');
        load.connect(0, encode, 0);
        connect(find('Checkpoint'), 2, encode, 'vae');
        connect(encode, 0, find('Sampler'), 'latent_image');""",
}

# Why edits cannot be saved: the beginning of each message. All other edits can be.
REFUSED = {
    "title": ['Prompt: prompt needs a node with this title; the nearest is "My Prompt" (CLIPTextEncode): rename it'],
    "sampler deleted and added": ["Sampler: seed, num_inference_steps, guidance_scale, info.sampler_name and"],
    "patch bypassed": ["Transparency Patch: bypassed, muted, renamed or deleted: the result would not be transparent"],
    "decoder muted": ["Alpha Decode: bypassed, muted, renamed or deleted: the result would not be transparent"],
    "output deleted": ["Alpha PNG: no node sends the picture: it is bypassed, muted or deleted; add a"],
    "text computed": [
        "Prompt: its input 'text', which prompt sets, comes from \"Concatenate Text\" (StringConcatenate)"
    ],
    "LoRA without a file": ["Load LoRA: its input 'lora_name' has no value; choose one, or remove this LoraLoader"],
    "subgraph bypassed": ["Transparency Patch: bypassed, muted, renamed or deleted: the result would not be"],
    "batch and width": [
        "Size: 'width' is 1000, the default of width; it must be an integer from 512 to 1536, a multiple"
    ],
    "same titles": [
        "Prompt: bypassed, muted, renamed or deleted, and prompt",
        "Negative Prompt: 2 nodes have this title",
    ],
    "image loaded": ["Picture: its input 'image' has no value; choose one, or remove this LoadImage"],
}
