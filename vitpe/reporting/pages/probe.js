// What position is good for: a model's scores without its position embeddings, what its tokens know of their place, and
// how far and where its attention looks. Shown is the last probe up to the time that the slider is at.
const {probes, grid_size: [, columns]} = data.probe;
const count = data.probe.grid_size[0] * columns;
const several = probes.length > 1;
const metrics = [["accuracy", "accuracy"], ["average_precision", "mAP"]];
const points = (value, digits = 1) => (value > 0 ? "+" : "") + percent(value, digits);

const heads = [make("td")];
for (const [, name] of metrics) heads.push(make("th", {scope: "col"}, name), make("th", {scope: "col"}, "change"));
at("probe-head").append(...heads, make("td"));
const greatest = Math.max(1e-9, ...probes.flatMap(({changes}) =>
  changes.map(change => -change.average_precision.difference)));
function line(name, meaning, cells, loss, losers = []) {
  const bar = make("td", {className: "loss"});
  if (loss > 0) {
    bar.append(make("i"));
    bar.firstChild.style.width = `${100 * loss / greatest}%`;
  }
  const head = make("th", {scope: "row"}, name, make("span", {}, meaning));
  const most = losers.map(([who, lost]) => `${who} ${points(lost, 0)}`).join(", ");
  if (most) head.append(make("span", {}, `lose most: ${most}`));
  return make("tr", {}, head, ...cells.map(text => make("td", {}, text)), bar);
}
function fillTable({as_they_are: whole, chance, changes}) {
  const plain = scores => metrics.flatMap(([key]) => [percent(scores[key]), ""]);
  const lines = changes.map(change => {
    const cells = metrics.flatMap(([key]) => {
      const {value, difference, low, high} = change[key];
      return [percent(value), `${points(difference)} [${points(low)}, ${points(high)}]`];
    });
    return line(change.change, change.meaning, cells, -change.average_precision.difference, change.losers);
  });
  at("probe-lines").replaceChildren(line("as they are", "", plain(whole), 0), ...lines,
    line("chance", "the majority answer, a random ranking", plain(chance), 0));
}

// A chart and what its lines are: [[class, text], …].
function titled(name, about, drawn, legend = []) {
  const key = make("p", {className: "key small"}, ...legend.map(([className, text]) => {
    const sample = draw("polyline", {class: className, points: "0,4 24,4"});
    return make("span", {}, draw("svg", {viewBox: "0 0 24 8", class: "chart"}, sample), text);
  }));
  return make("div", {}, make("h3", {}, name), make("p", {className: "small"}, about), drawn.svg, key);
}
const layersAxis = (name, low, high) => {
  const every = Math.ceil((high - low + 1) / 12), ticks = [];
  for (let layer = low; layer <= high; layer += every) ticks.push(layer);
  return {name, low: low - 0.3, high: high + 0.3, ticks};
};
function fillCharts({layers}) {
  const {linear_probes: places, attention_distances: distances, chance, uniform_distance: uniform} = layers;
  const blocks = distances.length, known = [];
  const told = chart({label: "Place in the tokens", x: layersAxis("after block (0: before the first)", 0, blocks),
    y: axis("", [0, 1]), width: 420, height: 260});
  ["row", "column"].forEach((name, number) => {
    told.line([[-0.3, chance[name]], [blocks + 0.3, chance[name]]], "dashed");
    for (const [key, style, text] of [["with", "", name], ["without", " without", `${name}, zeroed`]]) {
      told.line(places.map(place => [place.layer, place[key][name].value]), `run${number}${style}`);
      known.push([`run${number}${style}`, text]);
    }
  });
  const far = chart({label: "Attention distance", x: layersAxis("block", 1, blocks),
    y: axis("", [uniform, ...distances.flat().flatMap(head => [head.low, head.high])]), width: 420, height: 260});
  far.line([[0.7, uniform], [blocks + 0.3, uniform]], "dashed");
  distances.forEach((heads, block) => heads.forEach((head, which) => {
    const text = `block ${block + 1}, head ${which + 1}: ${number(head.value)} [${number(head.low)}, ${number(head.high)}]`;
    far.line([[block + 1, head.low], [block + 1, head.high]], "run1 thick");
    far.dot([block + 1, head.value], "run1", text);
  }));
  at("probe-layers").replaceChildren(
    titled("Place in the tokens", `Share of tokens whose row and column a linear map tells, in ${layers.num_held_out} ` +
      "images held out. Dashed: chance.", told, known),
    titled("How far attention looks", "Mean distance in patches, a dot for each head. Dashed: looking at all alike.", far));
}

const drawnOverTime = [];
if (several && probes.every(({step}) => step !== null)) {
  const steps = probes.map(({step}) => step), x = () => axis("step", [0, ...steps]);
  const change = name => ({changes}) => changes.find(each => each.change === name).average_precision.value;
  const lines = [["as they are", ({as_they_are: whole}) => whole.average_precision], ["zeroed", change("zeroed")],
    ["shuffled", change("shuffled")], ["mirrored", change("mirrored")]];
  const values = lines.map(([, value]) => probes.map(probe => [probe.step, value(probe)]));
  const chances = probes.map(({chance}) => chance.average_precision);
  const lost = chart({label: "mAP without position, by step", x: x(), width: 420, height: 260,
    y: axis("", [...values.flat().map(([, value]) => value), ...chances])});
  lost.line(steps.map((step, i) => [step, chances[i]]), "dashed");
  values.forEach((line, i) => {
    lost.line(line, `run${i}`);
    for (const point of line) lost.dot(point, `run${i}`);
  });
  const known = lines.map(([name], i) => [`run${i}`, name]);
  const lineOf = block => `run${block % 4}${block < 4 ? "" : " without"}`;
  const means = probes[0].layers.attention_distances.map((_, block) => probes.map(probe => {
    const heads = probe.layers.attention_distances[block];
    return [probe.step, heads.reduce((sum, head) => sum + head.value, 0) / heads.length];
  }));
  const far = chart({label: "Attention distance by step", x: x(), width: 420, height: 260,
    y: axis("", means.flat().map(([, value]) => value))});
  means.forEach((line, block) => far.line(line, lineOf(block)));
  at("probe-times").append(titled("mAP without position, over training", "Dashed: a random ranking.", lost, known),
    titled("How far attention looks, over training", "Mean distance in patches of each block's heads.", far,
      means.map((_, block) => [lineOf(block), `block ${block + 1}`])));
  drawnOverTime.push(lost, far);
}

// Attention from position alone of the chosen patch, head by head.
const attention = {all: null, views: []};
for (let head = 0; head < data.probe.num_heads_shown; head++) {
  const canvas = make("canvas", {role: "img", "aria-label": `Where head ${head + 1} looks by position alone`});
  const mark = make("div", {className: "frame thin"}), text = make("p", {className: "small"});
  at("probe-attention").append(
    make("div", {}, make("h3", {}, `Head ${head + 1}`), make("div", {className: "maps"}, canvas, mark), text));
  maps.choosing(canvas);
  attention.views.push({canvas, mark, text});
}
const more = data.probe.num_heads - data.probe.num_heads_shown;
at("probe-more").textContent = more > 0 ? `${more} more heads are not shown.` : "";
function drawAttention(n) {
  if (!attention.all) return;
  const current = attention.found.findLastIndex(({probe}) => probe <= state.probe);
  const which = Math.max(0, current), {high} = attention.found[which];
  attention.views.forEach(({canvas, mark, text}, head) => {
    const start = ((which * attention.views.length + head) * count + n) * count;
    const values = attention.all.subarray(start, start + count);
    maps.paintPanel(canvas, m => values[m] / 255);
    maps.markPanel(mark, n);
    const best = values.indexOf(Math.max(...values));
    const times = number(values[best] / 255 * high, 1), clipped = values[best] === 255 ? "≥ " : "";
    const where = `row ${Math.floor(best / columns)}, column ${best % columns}`;
    text.textContent = `most at ${where}: ${clipped}${times} times what each would get if all were alike`;
  });
}
maps.onPatch.push(drawAttention);

const state = {probe: -1};
function showProbe(time) {
  const timed = maps.timeName === "step" && probes.every(({step}) => step !== null);
  const found = several && timed ? Math.max(0, probes.findLastIndex(({step}) => step <= time)) : probes.length - 1;
  for (const drawn of drawnOverTime) drawn.mark(time);
  if (found === state.probe) return;
  state.probe = found;
  const probe = probes[found], name = probe.step === null ? probe.checkpoint : `Step ${grouped(probe.step)}`;
  at("probe-about").textContent = `${name}, on ${grouped(probe.num_images)} images of ${probe.images}` +
    (several ? `. ${probes.length} checkpoints were probed; the slider goes through them.` : ".");
  fillTable(probe);
  fillCharts(probe);
  drawAttention(maps.shown());
}
maps.onFrame.push(showProbe);
const ready = unpack(data.probe.packed_attention).then(all => {
  Object.assign(attention, {all, found: data.probe.attention});
  drawAttention(maps.shown());
});
