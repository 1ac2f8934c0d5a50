// One map is shown at a time, of one layer and one head, or of the mean of its heads; one query of it is chosen.
const at = (id) => document.getElementById(id);
const chosen = { map: 0, layer: 0, head: -1, query: 0 };
const accent = getComputedStyle(document.documentElement).getPropertyValue("--accent").trim();
for (const map of maps) map.bytes = Uint8Array.from(atob(map.weights), (c) => c.charCodeAt(0));

function weight(map, query, key) {
  const [, heads, T, S] = map.shape;
  const one = (head) => (map.bytes[((chosen.layer * heads + head) * T + query) * S + key] / 255) ** 2;
  if (chosen.head >= 0) return one(chosen.head);
  let sum = 0;
  for (let head = 0; head < heads; head++) sum += one(head);
  return sum / heads;
}

function shade(share) {
  return `color-mix(in srgb, ${accent} ${Math.round(100 * Math.sqrt(share))}%, transparent)`;
}

function side(parent, tokens, paint) {
  parent.replaceChildren();
  const cells = [];
  if (tokens.picture) {
    const box = document.createElement("div"), grid = document.createElement("div"), image = new Image();
    box.className = "picture";
    image.src = tokens.picture;
    image.alt = "the picture";
    grid.style.gridTemplate = `repeat(${tokens.grid}, 1fr) / repeat(${tokens.grid}, 1fr)`;
    for (let i = 0; i < tokens.grid ** 2; i++) grid.append(document.createElement("i"));
    box.append(image, grid);
    parent.append(box);
    tokens.patches.forEach((patch, token) => { if (patch >= 0) cells[token] = grid.children[patch]; });
  }
  const line = document.createElement("div");
  line.className = "tokens";
  parent.append(line);
  tokens.labels.forEach((label, token) => {
    if (cells[token]) return;
    const chip = document.createElement("span");
    chip.textContent = label.replace(/\n/g, "↵") || " ";
    line.append(chip);
    cells[token] = chip;
  });
  cells.forEach(paint);
  return cells;
}

function show() {
  const map = maps[chosen.map], [layers, heads, T, S] = map.shape;
  at("layer").max = layers - 1;
  at("layer-name").textContent = `${chosen.layer + 1} of ${layers}`;
  const queries = side(at("queries"), map.queries, (cell, query) => {
    cell.classList.toggle("chosen", query === chosen.query);
    cell.title = map.queries.labels[query];
    cell.onclick = () => { chosen.query = query; show(); };
  });
  const row = Array.from({ length: S }, (_, key) => weight(map, chosen.query, key));
  const most = Math.max(...row, 1e-9);
  side(at("keys"), map.keys, (cell, key) => {
    cell.style.background = shade(row[key] / most);
    cell.title = `${map.keys.labels[key]}: ${(100 * row[key]).toFixed(1)} %`;
  });
  at("told").textContent = `${map.queries.labels[chosen.query]} gives at most ${(100 * most).toFixed(1)} % to one.`;
  matrix(map, T, S);
}

function matrix(map, T, S) {
  const canvas = at("matrix"), scale = Math.max(1, Math.floor(640 / Math.max(T, S)));
  canvas.width = S * scale;
  canvas.height = T * scale;
  const pen = canvas.getContext("2d");
  pen.fillStyle = accent;
  for (let query = 0; query < T; query++) {
    const row = Array.from({ length: S }, (_, key) => weight(map, query, key)), most = Math.max(...row, 1e-9);
    for (let key = 0; key < S; key++) {
      pen.globalAlpha = Math.sqrt(row[key] / most);
      pen.fillRect(key * scale, query * scale, scale, scale);
    }
  }
  const place = (event) => {
    const box = canvas.getBoundingClientRect();
    const key = Math.floor((event.clientX - box.left) / box.width * S);
    return [Math.min(T - 1, Math.floor((event.clientY - box.top) / box.height * T)), Math.min(S - 1, key)];
  };
  canvas.onmousemove = (event) => {
    const [query, key] = place(event), percent = (100 * weight(map, query, key)).toFixed(1);
    at("under").textContent = `${map.queries.labels[query]} → ${map.keys.labels[key]}: ${percent} %`;
  };
  canvas.onclick = (event) => { chosen.query = place(event)[0]; show(); };
}

function choose(map) {
  const [layers, heads, T] = maps[map].shape;
  Object.assign(chosen, { map, layer: layers - 1, head: -1, query: maps[map].queries.patches[0] < 0 ? 0 : T - 1 });
  if (!maps[map].queries.picture) chosen.query = T - 1;
  at("head").replaceChildren(new Option("mean", -1), ...Array.from({ length: heads }, (_, i) => new Option(i + 1, i)));
  at("layer").max = layers - 1;
  at("layer").value = chosen.layer;
  show();
}

at("map").replaceChildren(...maps.map((map, i) => new Option(map.title, i)));
at("map").onchange = () => choose(+at("map").value);
at("layer").oninput = () => { chosen.layer = +at("layer").value; show(); };
at("head").onchange = () => { chosen.head = +at("head").value; show(); };
choose(0);
