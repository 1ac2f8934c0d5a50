// Makes the report's charts live: unpacks plotly.js, fills in colours, and redraws for phones and in the dark. Every chart
// is on the page as a PNG first. Where there is no JavaScript, or a browser cannot unpack gzip, it stays one; and it is
// what is printed.
const NARROW = 460;
const dark = matchMedia("(prefers-color-scheme: dark)");

function blend(scale, place) {
  const at = place * (scale.length - 1), i = Math.min(Math.floor(at), scale.length - 2);
  const part = (hex, k) => parseInt(hex.slice(1 + 2 * k, 3 + 2 * k), 16);
  const mix = k => Math.round(part(scale[i], k) + (at - i) * (part(scale[i + 1], k) - part(scale[i], k)));
  return [mix(0), mix(1), mix(2)];
}

function colour(text, theme) {
  const [name, opacity] = text.slice(1).split("/");
  if (name === "scale") return theme.scale.map((hex, i) => [i / (theme.scale.length - 1), hex]);
  const rgb = theme[name] ? blend([theme[name], theme[name]], 0) : blend(theme.scale, Number(name));
  return opacity ? `rgba(${rgb},${opacity})` : `rgb(${rgb})`;
}

function filled(value, theme) {
  if (typeof value === "string") return value.startsWith("@") ? colour(value, theme) : value;
  if (Array.isArray(value)) return value.map(each => filled(each, theme));
  if (value && typeof value === "object")
    return Object.fromEntries(Object.entries(value).map(([key, each]) => [key, filled(each, theme)]));
  return value;
}

function merged(base, change) {
  const out = {...base};
  for (const [key, value] of Object.entries(change)) {
    const both = out[key] && typeof out[key] === "object" && !Array.isArray(value) && typeof value === "object";
    out[key] = both ? merged(out[key], value) : value;
  }
  return out;
}

function dressed(chart, narrow) {
  const theme = dark.matches ? COLOURS.dark : COLOURS.light;
  const {data, layout} = filled(chart, theme);
  let made = narrow ? merged(layout, chart.narrow) : layout;
  const font = getComputedStyle(document.body).fontFamily;
  made = {...made, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", dragmode: narrow ? false : "zoom",
    font: {family: font, size: narrow ? 11 : 12.5, color: theme.ink},
    modebar: {bgcolor: "rgba(0,0,0,0)", color: theme.muted, activecolor: theme.ink},
    hoverlabel: {bgcolor: theme.paper, bordercolor: theme.muted, align: "left",
      font: {family: font, color: theme.ink}}};
  for (const key of Object.keys(made)) if (/^[xy]axis/.test(key))
    made[key] = {gridcolor: theme.grid, linecolor: theme.muted, showline: true, ticks: "outside",
      tickcolor: theme.muted, ticklen: 4, home: [...made[key].range], tickmode: "array",
      tickfont: {color: theme.muted}, ...made[key]};
  for (const trace of data) {
    const bar = trace.marker && trace.marker.colorbar;
    if (!bar) continue;
    bar.tickfont = {color: theme.muted};
    if (narrow) Object.assign(bar, {orientation: "h", x: 0.5, y: -0.26, yanchor: "top", len: 0.9, ypad: 0,
      title: {text: bar.title.text, side: "top"},
      tickvals: bar.tickvals.filter((_, i, all) => all.length < 6 || i % 2 === 0),
      ticktext: bar.ticktext.filter((_, i, all) => all.length < 6 || i % 2 === 0)});
  }
  return {data, layout: made};
}

// The ticks we chose fit the first view; another one gets the library's own.
function zoomed(place, first, changed) {
  const change = {};
  for (const key of Object.keys(changed)) {
    const axis = key.split(".")[0];
    if (!/^[xy]axis.*range/.test(key) || !first[axis].tickvals) continue;
    const now = place.layout[axis].range, was = first[axis].home;
    const same = now.every((end, i) => Math.abs(end - was[i]) < 1e-6 * Math.abs(was[1] - was[0]));
    change[axis + ".tickmode"] = same ? "array" : "auto";
  }
  if (Object.keys(change).length) Plotly.relayout(place, change);
}

function bring(box) {
  const chart = JSON.parse(box.querySelector("script").textContent);
  const place = document.createElement("div");
  place.className = "plot";
  box.append(place);
  let was = null;
  const draw = async () => {
    const narrow = box.clientWidth < NARROW, now = `${narrow}${dark.matches}`;
    if (now === was) return;
    was = now;
    const {data, layout} = dressed(chart, narrow);
    await Plotly.react(place, data, layout, {responsive: true, displaylogo: false, doubleClick: "reset",
      displayModeBar: narrow ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]],
      toImageButtonOptions: {format: "svg", filename: box.dataset.name}});
    place.removeAllListeners("plotly_relayout");
    place.on("plotly_relayout", changed => zoomed(place, layout, changed));
  };
  box.classList.add("live");
  draw().catch(error => { box.classList.remove("live"); place.remove(); console.error(error); });
  dark.addEventListener("change", draw);
  addEventListener("resize", draw);
}

async function wake() {
  const packed = document.getElementById("plotly");
  const boxes = document.querySelectorAll(".chart");
  if (!packed || !boxes.length || !("DecompressionStream" in window)) return;
  const bytes = Uint8Array.from(atob(packed.textContent), letter => letter.charCodeAt(0));
  const unpacked = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const script = document.createElement("script");
  script.textContent = await new Response(unpacked).text();
  document.head.append(script);
  const watch = new IntersectionObserver(seen => {
    for (const entry of seen) if (entry.isIntersecting) { watch.unobserve(entry.target); bring(entry.target); }
  }, {rootMargin: "600px"});
  boxes.forEach(box => watch.observe(box));
}
addEventListener("load", () => setTimeout(wake, 0));
