// Similarity maps of position embeddings: all of them, the chosen one large, and what stands behind them, at any time of
// training. A side is a run's history; the frames of all sides belong together, one by one.
const {grid_size: [rows, columns], sides} = data.history;
const count = rows * columns, numPairs = count * (count - 1) / 2;
const colourMap = bytes(data.history.colours);
const times = sides[0].frames.map(({step}, index) => step ?? index);
const timed = sides[0].frames.every(({step}) => step !== null);
const together = sides.every(({frames}) => frames.every(({step}, i) => step === sides[0].frames[i].step));
const timeName = !timed ? "checkpoint" : together ? "step" : "step of A";
// patch: that is chosen; tile, cell: under the pointer, in all maps and in a large one.
const state = {frame: times.length - 1, patch: data.history.patch, tile: null, cell: null, timer: null};
const shown = () => state.tile ?? state.patch;
const place = n => [Math.floor(n / columns), n % columns];
const dark = matchMedia("(prefers-color-scheme: dark)");

const views = sides.map((side, number) => {
  const canvas = (label, focus) => make("canvas", {role: "img", "aria-label": label, ...(focus ? {tabIndex: 0} : {})});
  const titled = sides.length > 1 ? [make("h3", {className: `run${number}`}, `${"AB"[number]}  ${side.name}`)] : [];
  const view = {
    side,
    overview: canvas("Similarity maps of all patches. Arrow keys choose a patch.", true),
    frame: make("div", {className: "frame"}),
    notice: make("div", {className: "notice"}, make("span", {}, "undefined: all embeddings are zero")),
    large: canvas("Map of the chosen patch"),
    best: make("div", {className: "frame best"}),
    norms: canvas("Lengths of the embeddings"),
    normsText: make("p", {className: "small"}),
    components: canvas("Three principal components of the embeddings, as red, green and blue"),
    componentsText: make("p", {className: "small"}),
    reading: make("p"),
    marks: [make("div", {className: "frame thin"}), make("div", {className: "frame thin"})],
  };
  view.overview.setAttribute("aria-describedby", "help");
  at("overviews").append(
    make("div", {}, ...titled, make("div", {className: "maps"}, view.overview, view.frame, view.notice)));
  at("larges").append(make("div", {className: "maps"}, view.large, view.best));
  at("reading").append(view.reading);
  at("behind").append(
    make("div", {}, make("h3", {}, titled.length ? `Length, ${"AB"[number]}` : "Length of the embeddings"),
      make("div", {className: "maps"}, view.norms, view.marks[0]), view.normsText),
    make("div", {}, make("h3", {}, titled.length ? `Components, ${"AB"[number]}` : "Three principal components"),
      make("div", {className: "maps"}, view.components, view.marks[1]), view.componentsText));
  return view;
});
for (const id of ["history", "one"]) at(id).dataset.sides = sides.length;

async function unpackSides() {
  for (const view of views) {
    const all = await unpack(view.side.packed), total = times.length;
    view.rest = all.subarray(0, numPairs);
    for (let i = 2 * numPairs; i < (1 + total) * numPairs; i++) all[i] = (all[i] + all[i - numPairs]) & 255;
    const part = (start, length) => t => all.subarray(start + t * length, start + (t + 1) * length);
    view.pairsOf = part(numPairs, numPairs);
    view.normsOf = part((1 + total) * numPairs, count);
    view.componentsOf = part((1 + total) * numPairs + total * count, 3 * count);
  }
}

// Pairs n < m lie row by row: (0, 1), (0, 2), …, (1, 2), …; null where undefined.
const UNDEFINED = 255, STEPS = 254;
const pairOf = (n, m) => n < m ? n * (2 * count - n - 1) / 2 + m - n - 1 : pairOf(m, n);
function similarity(view, n, m) {
  const pair = pairOf(n, m), value = view.pairsOf(state.frame)[pair], {low, high} = view.side.frames[state.frame];
  if (value === UNDEFINED) return null;
  const rest = state.frame === times.length - 1 ? view.rest[pair] / 255 - 0.5 : 0;
  return low + (value + rest) / STEPS * (high - low);
}
// The lowest and highest similarity on the colour scale of a patch's map.
function scale(view, n) {
  if (!data.history.per_tile) return [data.history.low, data.history.high];
  const values = [];
  for (let m = 0; m < count; m++) if (m !== n) values.push(similarity(view, n, m) ?? NaN);
  return [Math.min(...values), Math.max(...values)];
}

// One map into an image: its top left corner at (x0, y0), cells of `cell` pixels. share(m): of the colour map, in [0, 1],
// null where undefined; own: the patch that the map belongs to, if any.
function paintMap(image, share, own, x0, y0, cell) {
  const edge = Math.max(1, Math.floor(cell / 5)), [plain, stripe] = dark.matches ? [44, 66] : [230, 205];
  const hatch = Math.max(2, cell >> 1);
  for (let m = 0; m < count; m++) {
    const top = Math.floor(m / columns) * cell, left = (m % columns) * cell;
    const value = m === own ? 0 : share(m);
    const colour = 3 * Math.round(255 * Math.min(1, Math.max(0, value)));
    for (let y = 0; y < cell; y++) {
      let i = 4 * ((y0 + top + y) * image.width + x0 + left);
      for (let x = 0; x < cell; x++, i += 4) {
        if (m === own) {
          const border = Math.min(x, y, cell - 1 - x, cell - 1 - y) < edge;
          image.data[i] = border ? 29 : 255;
          image.data[i + 1] = border ? 36 : 255;
          image.data[i + 2] = border ? 51 : 255;
        } else if (value === null) {
          const hatched = Math.floor((top + y + left + x) / hatch) % 3 === 0;
          image.data[i] = image.data[i + 1] = image.data[i + 2] = hatched ? stripe : plain;
        } else {
          image.data[i] = colourMap[colour];
          image.data[i + 1] = colourMap[colour + 1];
          image.data[i + 2] = colourMap[colour + 2];
        }
        image.data[i + 3] = 255;
      }
    }
  }
}
function paintSimilarity(image, view, n, x0, y0, cell) {
  const [low, high] = scale(view, n), span = Math.max(high - low, 1e-9);
  const share = m => {
    const value = similarity(view, n, m);
    return value === null ? null : (value - low) / span;
  };
  paintMap(image, share, n, x0, y0, cell);
}
function paint(canvas, draw) {
  const context = canvas.getContext("2d"), image = context.createImageData(canvas.width, canvas.height);
  draw(image);
  context.putImageData(image, 0, 0);
}

// Each tile stands where its patch stands; those of a single row lie below each other, so that they can be seen.
const tilePlace = n => rows === 1 ? [n, 0] : columns === 1 ? [0, n] : place(n);
const [tileRows, tileColumns] = rows === 1 ? [count, 1] : columns === 1 ? [1, count] : [rows, columns];
const layout = {};
function measure() {
  const ratio = Math.max(2, window.devicePixelRatio || 1), narrow = matchMedia("(max-width: 860px)").matches;
  const whole = at("history").clientWidth, height = narrow ? 560 : 760;
  const room = Math.min(narrow ? whole : (whole - 376 - 24 * (sides.length - 1)) / sides.length, 760);
  const gapOf = cell => Math.max(1, Math.floor(3 * cell / 4));
  const extent = cell => [
    tileColumns * (columns * cell + gapOf(cell)) - gapOf(cell), tileRows * (rows * cell + gapOf(cell)) - gapOf(cell)];
  const fits = ([wide, high]) => wide <= room * ratio && high <= height * ratio;
  let cell = 1;
  while (fits(extent(cell + 1))) cell++;
  const gap = gapOf(cell), [wide, high] = extent(cell);
  // Pixels of the canvas in one of the page's: more than there are on the screen where so many maps have no room else.
  const scale = Math.max(ratio, wide / room, high / height);
  Object.assign(layout, {cell, gap, scale, width: columns * cell + gap, height: rows * cell + gap});
  const taken = sides.length * wide / scale + 24 * (sides.length - 1);
  at("history").style.setProperty("--overviews", `${taken}px`);
  at("history").dataset.wide = !narrow && sides.length === 1 && whole - taken >= 340 + 150 + 2 * 36;
  const many = sides.length > 1;
  Object.assign(layout, small([many || narrow ? 160 : 340, narrow ? 190 : many ? 240 : 400], ratio, "large"));
  Object.assign(layout, small([narrow || many ? 150 : 158, 220], ratio, "panel"));
  for (const view of views) {
    size(view.overview, wide, high, scale);
    size(view.large, columns * layout.largeCell, rows * layout.largeCell, layout.largeScale);
    size(view.components, columns * layout.panelCell, rows * layout.panelCell, layout.panelScale);
  }
  size(at("bar"), Math.round(Math.max(150, columns * layout.largeCell / layout.largeScale) * ratio), 1, ratio);
  at("bar").style.height = "12px";
  document.querySelector(".ends").style.width = at("bar").style.width;
  paint(at("bar"), ({data: pixels, width}) => {
    for (let x = 0; x < width; x++) {
      const colour = 3 * Math.round(255 * x / (width - 1));
      pixels.set([colourMap[colour], colourMap[colour + 1], colourMap[colour + 2], 255], 4 * x);
    }
  });
}
// Cells of a single map of at most [width, height].
function small([width, height], ratio, name) {
  const cell = Math.max(1, Math.floor(Math.min(width * ratio / columns, height * ratio / rows)));
  return {[`${name}Cell`]: cell, [`${name}Scale`]: Math.max(ratio, columns / width, rows / height)};
}
function size(canvas, width, height, ratio) {
  canvas.width = width;
  canvas.height = height;
  canvas.style.width = `${width / ratio}px`;
  canvas.style.height = `${height / ratio}px`;
}
function box(element, [left, top, width, height], scale, margin = 0) {
  const values = {left: left / scale - margin, top: top / scale - margin};
  Object.assign(values, {width: width / scale + 2 * margin, height: height / scale + 2 * margin});
  for (const [key, value] of Object.entries(values)) element.style[key] = `${value}px`;
}

function drawOverviews() {
  for (const view of views) {
    paint(view.overview, image => {
      for (let n = 0; n < count; n++) {
        const [row, column] = tilePlace(n);
        paintSimilarity(image, view, n, column * layout.width, row * layout.height, layout.cell);
      }
    });
    const frame = view.side.frames[state.frame], norms = view.normsOf(state.frame);
    paintPanel(view.norms, m => norms[m] / 255);
    const [low, high] = frame.norms;
    view.normsText.textContent = `${low.toPrecision(3)} (dark) to ${high.toPrecision(3)} (bright)`;
    paintComponents(view);
    view.componentsText.textContent = frame.shares.some(share => share > 0)
      ? `red, green, blue: ${frame.shares.map(share => percent(share, 0)).join(", ")} % of the variance`
      : "undefined: all embeddings are equal";
    view.notice.hidden = view.pairsOf(state.frame).some(value => value !== UNDEFINED);
  }
}
function paintComponents(view) {
  const values = view.componentsOf(state.frame), cell = layout.panelCell;
  paint(view.components, image => {
    for (let y = 0, i = 0; y < image.height; y++) {
      for (let x = 0; x < image.width; x++, i += 4) {
        const m = 3 * (Math.floor(y / cell) * columns + Math.floor(x / cell));
        image.data.set([values[m], values[m + 1], values[m + 2], 255], i);
      }
    }
  });
}
function drawPatch() {
  const n = shown(), [row, column] = place(n), [tileRow, tileColumn] = tilePlace(n);
  at("chosen").textContent = `Row ${row}, column ${column}${named(n)}`;
  views.forEach((view, number) => {
    paint(view.large, image => paintSimilarity(image, view, n, 0, 0, layout.largeCell));
    const tile = [tileColumn * layout.width, tileRow * layout.height, columns * layout.cell, rows * layout.cell];
    box(view.frame, tile, layout.scale, 3);
    const best = bestMatch(view, n);
    view.best.hidden = best === null;
    if (best !== null) box(view.best, cellBox(best.m, layout.largeCell), layout.largeScale);
    for (const mark of view.marks) markPanel(mark, n);
    view.reading.textContent = (sides.length > 1 ? `${"AB"[number]}: ` : "") + reading(view, n, best);
  });
  for (const listener of onPatch) listener(n);
}
const onPatch = [], onFrame = [];
function drawFacts() {
  const frame = sides[0].frames[state.frame];
  at("time").value = state.frame;
  at("time").setAttribute("aria-valuetext", frame.label);
  const facts = [];
  sides.forEach(({frames}, number) => {
    const each = frames[state.frame], letter = sides.length > 1 ? `${"AB"[number]} ` : "";
    if (number && each.label !== frame.label) facts.push(`B ${each.label}`);
    if (each.images_seen !== null && !number) facts.push(`${grouped(each.images_seen)} images seen`);
    if (each.scored !== null) {
      const where = each.scored.label === each.label ? "" : ` at ${each.scored.label}`;
      facts.push(`${letter}valid accuracy ${percent(each.scored.valid_accuracy)}%${where}`);
    }
  });
  at("facts").replaceChildren(make("b", {}, frame.label), facts.length ? ` · ${facts.join(" · ")}` : "");
  drawNumbers();
  for (const listener of onFrame) listener(times[state.frame]);
}
function named(n) {
  const [row, column] = place(n);
  if (data.history.left_eye.includes(n)) return ", the left eye";
  if (data.history.right_eye.includes(n)) return ", the right eye";
  return row === 0 || column === 0 || row === rows - 1 || column === columns - 1 ? ", the border" : "";
}
function bestMatch(view, n) {
  const [row, column] = place(n);
  let best = null;
  for (let m = 0; m < count; m++) {
    const [otherRow, otherColumn] = place(m);
    if (Math.max(Math.abs(row - otherRow), Math.abs(column - otherColumn)) < 2) continue;
    const value = similarity(view, n, m);
    if (value !== null && (best === null || value > best.value)) best = {m, value};
  }
  return best;
}
function reading(view, n, best) {
  if (state.cell !== null && state.cell !== n) {
    const [row, column] = place(state.cell), value = similarity(view, n, state.cell);
    return `Similarity to row ${row}, column ${column}${named(state.cell)}: ` +
      (value === null ? "undefined" : number(value));
  }
  if (best === null) {
    return view.side.frames[state.frame].defined ? "No patch is beyond its neighbours."
      : "Its map is undefined: the embedding is zero.";
  }
  const [row, column] = place(best.m);
  return `Framed: beyond its neighbours it is most like row ${row}, column ${column}${named(best.m)}: ` +
    number(best.value);
}

// The numbers of this checkpoint, each with its meaning, and the chosen one over training.
const randoms = sides.map(({random}) => random);
const oneRandom = data.history.numbers.every(({key}) => new Set(randoms.map(each => number(each[key]))).size === 1);
const letters = sides.length > 1 ? ["A", "B"] : ["value"];
const heads = [...letters, ...(oneRandom ? ["random"] : letters.map(letter => `random ${letter}`))];
at("measured-head").append(make("td"), ...heads.map(head => make("th", {scope: "col"}, head)));
at("random").textContent = `random: ${data.history.random_meaning}`;
const lines = data.history.numbers.map(({key, name, meaning}) => {
  const values = sides.map(() => make("td"));
  const others = (oneRandom ? randoms.slice(0, 1) : randoms).map(each => make("td", {}, number(each[key])));
  const button = make("button", {type: "button", className: "name"}, name);
  button.addEventListener("click", () => drawCurve(key));
  const head = make("th", {scope: "row"}, times.length > 1 ? button : name, make("span", {}, meaning));
  at("numbers").append(make("tr", {}, head, ...values, ...others));
  return {key, name, button, values};
});
function drawNumbers() {
  for (const {key, values} of lines) {
    sides.forEach(({frames}, number_) => { values[number_].textContent = number(frames[state.frame].numbers[key]); });
  }
}
// A chart of values over training, with a line that moves along. lines: [[x, y], …] each; levels: dashed.
function overTime(name, lines, levels) {
  const values = [...lines.flat().map(([, value]) => value), ...levels];
  const x = axis(timeName, [Math.min(0, ...times), Math.max(1, ...times)]);
  const drawn = chart({label: `${name} by ${timeName}`, x, y: axis("", values.length ? values : [0, 1]), width: 420, height: 260});
  for (const level of levels) drawn.line([[x.low, level], [x.high, level]], "dashed");
  lines.forEach((line, number) => drawn.line(line, `run${number}`));
  return drawn;
}
let markCurve = () => {};
function drawCurve(key) {
  for (const line of lines) line.button.setAttribute("aria-pressed", String(line.key === key));
  const {name} = lines.find(line => line.key === key);
  const found = sides.map(({frames}) =>
    frames.map((frame, i) => [times[i], frame.numbers[key]]).filter(([, value]) => value !== null));
  const levels = [...new Set(randoms.map(each => each[key]).filter(value => value !== null))];
  const drawn = overTime(name, found, levels);
  at("number-curve").replaceChildren(make("h3", {}, `${name} over training`), drawn.svg,
    make("p", {className: "small"}, "Dashed: random."));
  markCurve = drawn.mark;
  markCurve(times[state.frame]);
}
onFrame.push(time => markCurve(time));

// How alike two histories are.
if (data.history.alike) {
  at("alike-part").hidden = false;
  const {numbers, values, random} = data.history.alike;
  for (const {key, name, meaning} of numbers) {
    const line = values.map((each, i) => [times[i], each[key]]).filter(([, value]) => value !== null);
    const drawn = overTime(name, [line], random[key] === null ? [] : [random[key]]);
    const text = make("p", {className: "reading"});
    onFrame.push(time => {
      drawn.mark(time);
      text.textContent = `${number(values[state.frame][key])}, of random embeddings ${number(random[key])}`;
    });
    const about = make("p", {className: "small"}, meaning);
    at("alike").append(make("div", {}, make("h3", {}, name), text, drawn.svg, about));
  }
}

function show({frame = state.frame, patch = state.patch, tile = null, cell = null} = {}) {
  frame = Math.min(times.length - 1, Math.max(0, frame));
  const changed = frame !== state.frame;
  Object.assign(state, {frame, patch, tile, cell});
  if (changed) { drawOverviews(); drawFacts(); }
  drawPatch();
}
function drawAll() { measure(); drawOverviews(); drawFacts(); drawPatch(); }

// The tile or cell under an event: of `wide` by `high` ones, of these sizes in pixels of the canvas.
function found(canvas, event, scale, width, height, wide, high) {
  const box = canvas.getBoundingClientRect();
  const row = Math.floor((event.clientY - box.top) * scale / height);
  const column = Math.floor((event.clientX - box.left) * scale / width);
  return row >= 0 && row < high && column >= 0 && column < wide ? row * wide + column : null;
}
// A mouse that points shows, a click or a tap chooses: a finger that scrolls the page changes nothing.
function pointing(element, found, point) {
  element.addEventListener("pointermove", event => { if (event.pointerType !== "touch") point(found(event)); });
  element.addEventListener("pointerleave", () => show());
  element.addEventListener("click", event => {
    const patch = found(event);
    if (patch !== null) show({patch});
  });
}
const cells = (canvas, name) => event =>
  found(canvas, event, layout[`${name}Scale`], layout[`${name}Cell`], layout[`${name}Cell`], columns, rows);
// What other parts of the page show of the chosen patch, on panels of the size of those here.
const choosing = canvas => pointing(canvas, cells(canvas, "panel"), tile => show({tile}));
function paintPanel(canvas, share) {
  size(canvas, columns * layout.panelCell, rows * layout.panelCell, layout.panelScale);
  paint(canvas, image => paintMap(image, share, null, 0, 0, layout.panelCell));
}
const cellBox = (m, cell) => [(m % columns) * cell, Math.floor(m / columns) * cell, cell, cell];
const markPanel = (mark, n) => box(mark, cellBox(n, layout.panelCell), layout.panelScale);
for (const {overview, large, norms, components} of views) {
  const tileAt = event =>
    found(overview, event, layout.scale, layout.width, layout.height, tileColumns, tileRows);
  pointing(overview, tileAt, tile => show({tile}));
  pointing(large, cells(large, "large"), cell => show({cell}));
  for (const canvas of [norms, components]) choosing(canvas);
  overview.addEventListener("keydown", event => {
    const move = {ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1]}[event.key];
    if (!move) return;
    event.preventDefault();
    const [row, column] = tilePlace(state.patch);
    const newRow = Math.min(tileRows - 1, Math.max(0, row + move[0]));
    show({patch: newRow * tileColumns + Math.min(tileColumns - 1, Math.max(0, column + move[1]))});
  });
}

function play() {
  if (state.timer !== null) return stop();
  if (state.frame === times.length - 1) show({frame: 0});
  at("play").textContent = "Pause";
  state.timer = setInterval(() => {
    show({frame: state.frame + 1});
    if (state.frame === times.length - 1) stop();
  }, data.history.frame_ms);
}
function stop() {
  clearInterval(state.timer);
  state.timer = null;
  at("play").textContent = "Play";
}
at("play").addEventListener("click", play);
at("time").addEventListener("input", event => { stop(); show({frame: Number(event.target.value)}); });
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest?.("a, button, input, select")) return;
  if (event.key === " " && times.length > 1) {
    event.preventDefault();
    play();
  } else if (event.key === "," || event.key === ".") {
    stop();
    show({frame: state.frame + (event.key === "." ? 1 : -1)});
  }
});

at("time").max = times.length - 1;
at("controls").hidden = times.length < 2;
const {low: lowest, high: highest, per_tile: perTile} = data.history;
at("low").textContent = perTile ? "its lowest" : (lowest > -1 ? "≤ " : "") + number(lowest);
at("high").textContent = perTile ? "its highest" : number(highest) + (highest < 1 ? " ≤" : "");
const total = data.history.num_checkpoints;
const {error, last_error: lastError} = data.history;
at("exact").textContent = `Similarities are right to ± ${error.toPrecision(1)}` +
  (times.length > 1 ? `, at the last checkpoint to ± ${lastError.toPrecision(1)}` : "") +
  (times.length < total ? `; ${times.length} of ${total} checkpoints, evenly spread, are on it.` : ".");
const one = at("one");
new ResizeObserver(([{target}]) => one.style.setProperty("--controls", `${Math.max(0, target.offsetHeight - 1)}px`))
  .observe(at("controls"));

const ready = unpackSides().then(() => {
  drawAll();
  if (times.length > 1 && lines.length) drawCurve(lines[0].key);
  addEventListener("resize", drawAll);
  dark.addEventListener("change", drawAll);
  document.body.dataset.ready = "yes";
}, () => { at("exact").textContent = "This browser is too old to unpack the maps (it has no DecompressionStream)."; });
