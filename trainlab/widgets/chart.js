// The charts of trainlab's panels. One view is one canvas with a row of buttons above it; what is
// drawn on the canvas comes from the drawer of its kind (KINDS, at the end). Numbers arrive as bytes.
//
// A drawer has: read(frame, model) -> the frame with arrays; draw(view, g, width, height);
// says(view) -> the last values in words; and, where it has them, height(view, width), entries(view)
// of the legend, hover(view, x, y), tip(view), key(view, event) -> what to announce, and down, drag, up.

const STYLE = `
.trainlab-host { box-sizing: border-box; padding-right: 12px; width: 100%; max-width: 760px;
  min-width: min(300px, 100%); }
.widget-hbox > .trainlab-host { flex: 1 1 300px; }
.trainlab-chart [hidden] { display: none; }
.trainlab-chart { font: 12px var(--jp-ui-font-family, sans-serif); color: var(--jp-content-font-color1, #808080); }
.trainlab-chart .head { display: flex; flex-wrap: wrap; align-items: center; gap: 2px 10px; min-height: 22px; }
.trainlab-chart .title { font-weight: 600; }
.trainlab-chart .legend { display: flex; flex-wrap: wrap; gap: 0 2px; max-height: 44px; overflow-y: auto; }
.trainlab-chart .tools { position: absolute; top: 0; right: 12px; z-index: 1; display: flex; gap: 6px; }
.trainlab-chart .legend:empty, .trainlab-chart .note:empty { display: none; }
.trainlab-chart label { display: flex; align-items: center; gap: 4px; color: var(--jp-content-font-color2, #808080); }
.trainlab-chart input { width: 64px; height: 16px; margin: 0; accent-color: var(--jp-brand-color1, #2b7bba); }
.trainlab-chart button { font: inherit; color: inherit; background: none; border: 1px solid transparent;
  border-radius: 3px; padding: 0 5px; cursor: pointer; line-height: 18px; }
.trainlab-chart .tools button { border-color: var(--jp-border-color1, #808080); }
.trainlab-chart .tools button[aria-pressed=true] { background: var(--jp-layout-color3, #80808055); }
.trainlab-chart button:hover { background: var(--jp-layout-color2, #80808033); }
.trainlab-chart .legend button { display: flex; align-items: center; gap: 5px; }
.trainlab-chart .legend button[aria-pressed=false] { opacity: 0.5; text-decoration: line-through; }
.trainlab-chart .stage { position: relative; width: 100%; }
.trainlab-chart canvas { width: 16px; height: 10px; }
.trainlab-chart .stage > canvas { display: block; position: absolute; inset: 0; width: 100%; height: 100%; }
.trainlab-chart canvas:focus-visible, .trainlab-chart button:focus-visible, .trainlab-chart input:focus-visible {
  outline: 2px solid var(--jp-brand-color1, #2b7bba) !important; outline-offset: -2px; border-radius: 2px; }
.trainlab-chart .tip { position: absolute; top: 26px; pointer-events: none; padding: 3px 7px; border-radius: 3px;
  max-width: 60%; background: var(--jp-layout-color1, #fff); border: 1px solid var(--jp-border-color1, #808080);
  font-variant-numeric: tabular-nums; line-height: 17px; z-index: 2; }
.trainlab-chart .tip div { display: flex; gap: 6px; align-items: center; white-space: nowrap; }
.trainlab-chart .tip b { margin-left: auto; padding-left: 8px; }
.trainlab-chart .note { padding: 2px 4px 4px; line-height: 1.4; }
.trainlab-chart .said { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }`;

// --- numbers ---------------------------------------------------------------------------------------

function floats(bytes) {
  return new Float32Array(bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength));
}

function bytes(view) {
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

// 1.5e8, 1e-4
function brief(value, digits) {
  const [mantissa, power] = value.toExponential(digits).split("e");
  return `${Number(mantissa)}e${Number(power)}`;
}

// 0.01, 20, 1e-4: short, and never more digits than are meant.
function short(value, digits = 3) {
  if (value === null || !Number.isFinite(value)) return "not finite";
  const size = Math.abs(value);
  if (size && (size >= Math.max(1e5, 10 ** digits) || size < 1e-3)) {
    return brief(value, Math.min(digits - 1, 3));
  }
  return String(size >= 10 ** (digits - 1) ? Math.round(value) : Number(value.toPrecision(digits)));
}

// Values on a linear axis, all with as many decimals as their step needs.
function evenly(values, step) {
  const largest = Math.max(...values.map(Math.abs));
  if (largest >= 1e6 || largest < 1e-3) {
    const digits = Math.max(0, Math.floor(Math.log10(largest)) - Math.floor(Math.log10(step) + 1e-9));
    return values.map((v) => (v ? brief(v, Math.min(digits, 6)) : "0"));
  }
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  return values.map((v) => (v ? v.toFixed(Math.min(decimals, 9)) : "0"));
}

// At most `count` ticks or so: steps of 1, 2, 5; on a log axis decades, and 1, 2, 5 where it is short.
function ticks({ low, high, log }, count) {
  if (log) {
    const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const every = Math.ceil((to - from + 1) / count);
    const within = [1, 2, 5].slice(0, (to - from + 2) * 3 <= count * 1.5 ? 3 : 1);
    const found = [];
    for (let power = from - 1; power <= to; power++) {
      if (power % every === 0) found.push(...within.map((m) => Number(`${m}e${power}`)));
    }
    const inside = found.filter((v) => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9));
    if (inside.length >= 2) return inside.map((v) => ({ value: v, label: v < 1e4 ? short(v) : brief(v, 0) }));
  }
  const raw = (high - low) / count;
  const unit = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].find((m) => m * unit >= raw * (1 - 1e-9)) * unit;
  const values = [];
  for (let place = Math.ceil(low / step - 1e-6); place <= Math.floor(high / step + 1e-6); place++) {
    values.push(place * step);
  }
  if (values.length < 2 && count < 9) return ticks({ low, high }, count + 2);
  return evenly(values, step).map((label, i) => ({ value: values[i], label }));
}

// The axis with bounds: its own, or those of the data with a share of it as room on both sides.
function fitted(axis, arrays, room) {
  let [low, high] = [Infinity, -Infinity];
  for (const values of arrays) {
    for (const v of values) {
      if (Number.isFinite(v) && (v > 0 || !axis.log)) {
        if (v < low) low = v;
        if (v > high) high = v;
      }
    }
  }
  if (low > high) [low, high] = axis.log ? [0.1, 1] : [0, 1];
  if (axis.log) {
    const part = (high / low) ** room;
    [low, high] = low === high ? [low / 2, high * 2] : [low / part, high * part];
  } else {
    const part = low === high ? Math.abs(low) / 10 || 1 : (high - low) * room;
    [low, high] = low === high && !room ? [low, low + part] : [low - part, high + part];
  }
  const given = (bound) => bound !== null && bound !== undefined && (bound > 0 || !axis.log);
  if (given(axis.low)) low = axis.low;
  if (given(axis.high)) high = axis.high;
  if (!(low < high)) {
    if (given(axis.high)) low = axis.log ? high / 10 : high - 1;
    else high = axis.log ? low * 10 : low + 1;
  }
  return { ...axis, low, high };
}

// From values to pixels and back.
function scale({ low, high, log }, from, to) {
  const [bend, back] = log ? [Math.log10, (v) => 10 ** v] : [(v) => v, (v) => v];
  const [first, span] = [bend(low), bend(high) - bend(low)];
  return {
    at: (v) => {
      const place = from + ((bend(v) - first) / span) * (to - from);
      return Number.isFinite(place) ? Math.max(-1e5, Math.min(1e5, place)) : NaN;
    },
    value: (place) => back(first + ((place - from) / (to - from)) * span),
  };
}

// Exponential moving average, freed of its pull towards the start.
function smoothed(values, beta) {
  let [sum, weight] = [0, 0];
  return values.map((v) => {
    if (!Number.isFinite(v)) return NaN;
    sum = beta * sum + (1 - beta) * v;
    weight = beta * weight + (1 - beta);
    return sum / weight;
  });
}

// The value of a curve at x, between its points on a straight line; NaN beyond its ends.
function valueAt({ x: xs, y: ys }, x) {
  const after = firstFrom(xs, x);
  if (after === xs.length) return NaN;
  if (xs[after] === x) return ys[after];
  if (after === 0) return NaN;
  const part = (x - xs[after - 1]) / (xs[after] - xs[after - 1]);
  return ys[after - 1] + part * (ys[after] - ys[after - 1]);
}

function firstFrom(xs, x) {
  let [low, high] = [0, xs.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (xs[middle] < x) low = middle + 1;
    else high = middle;
  }
  return low;
}

function lastFinite(values) {
  for (let i = values.length - 1; i >= 0; i--) if (Number.isFinite(values[i])) return values[i];
  return NaN;
}

// --- drawing ---------------------------------------------------------------------------------------

function cut(g, text, width) {
  if (g.measureText(text).width <= width) return text;
  let end = text.length;
  while (end > 1 && g.measureText(`${text.slice(0, end)}…`).width > width) end--;
  return `${text.slice(0, end)}…`;
}

function write(g, text, x, y, { align = "left", color, behind }) {
  [g.textAlign, g.textBaseline] = [align, "middle"];
  if (behind) {
    const wide = g.measureText(text).width;
    g.fillStyle = behind;
    g.fillRect(x - { left: 0, center: wide / 2, right: wide }[align] - 1, y - 7, wide + 2, 14);
  }
  g.fillStyle = color;
  g.fillText(text, x, y);
}

function rule(g, x0, y0, x1, y1, color, width = 1, dash = []) {
  [g.strokeStyle, g.lineWidth] = [color, width];
  g.setLineDash(dash);
  g.beginPath();
  g.moveTo(x0, y0);
  g.lineTo(x1, y1);
  g.stroke();
  g.setLineDash([]);
}

// Both axes with grid, ticks and labels; gives their scales and the box between them.
// An axis with `names` has one place for each; one that is `bare` has no numbers yet.
function plane(view, g, width, height, x, y) {
  const { ink, soft, grid } = view.theme;
  const top = y.label || view.tools.firstChild ? 26 : 8;
  const box = { top, bottom: height - (x.label ? 38 : 22), right: width - 12 };
  const marked = (axis, count) =>
    axis.bare ? [] : axis.names?.map((label, value) => ({ label, value })) ?? ticks(axis, count);
  const yTicks = marked(y, Math.max(2, Math.floor((box.bottom - box.top) / 32)));
  for (const tick of yTicks) tick.label = cut(g, tick.label, width * 0.42);
  box.left = Math.max(24, ...yTicks.map((tick) => Math.ceil(g.measureText(tick.label).width) + 10));
  const sx = scale(x, box.left, box.right);
  const sy = scale(y, box.bottom, box.top);
  for (const { value, label } of yTicks) {
    const at = Math.round(sy.at(value)) + 0.5;
    if (!y.names) rule(g, box.left, at, box.right, at, grid);
    write(g, label, box.left - 6, at, { align: "right", color: soft });
  }
  const half = (tick) => g.measureText(tick.label).width / 2;
  const centre = (tick) => Math.max(half(tick), Math.min(width - half(tick), sx.at(tick.value)));
  let count = Math.max(2, Math.floor((box.right - box.left) / 62));
  let xTicks = marked(x, count);
  const tight = (tick, i) => i && centre(tick) - half(tick) < centre(xTicks[i - 1]) + half(xTicks[i - 1]) + 8;
  while (!x.names && count > 1 && xTicks.some(tight)) xTicks = marked(x, --count);
  for (const tick of xTicks) {
    const at = Math.round(sx.at(tick.value)) + 0.5;
    if (!x.names) rule(g, at, box.top, at, box.bottom, grid);
    write(g, tick.label, centre(tick), box.bottom + 11, { align: "center", color: soft });
  }
  rule(g, box.left, box.bottom + 0.5, box.right, box.bottom + 0.5, soft);
  rule(g, box.left + 0.5, box.top, box.left + 0.5, box.bottom, soft);
  if (y.label) write(g, cut(g, y.label, width - 28 - view.tools.clientWidth), 4, 10, { color: ink });
  if (x.label) {
    const label = cut(g, x.label, box.right - box.left);
    write(g, label, (box.left + box.right) / 2, height - 9, { align: "center", color: ink });
  }
  return { sx, sy, box };
}

function inside(g, { left, right, top, bottom }, draw) {
  g.save();
  g.beginPath();
  g.rect(left - 3, top - 3, right - left + 6, bottom - top + 6);
  g.clip();
  draw();
  g.restore();
}

function drawCurve(g, { x, y, style }, { sx, sy }, color, alpha = 1) {
  [g.strokeStyle, g.fillStyle, g.lineJoin, g.lineCap] = [color, color, "round", "round"];
  g.globalAlpha = style === "faint" ? 0.75 * alpha : alpha;
  g.lineWidth = style === "faint" ? 1.2 : 1.8;
  g.setLineDash(style === "dashed" ? [6, 5] : []);
  g.beginPath();
  let drawing = false;
  const lone = [];
  for (let i = 0; i < x.length; i++) {
    const [px, py] = [sx.at(x[i]), sy.at(y[i])];
    if (Number.isNaN(px + py)) {
      drawing = false; // a gap
    } else if (style === "dots") {
      g.moveTo(px + 2.5, py);
      g.arc(px, py, 2.5, 0, 7);
    } else if (drawing) {
      g.lineTo(px, py);
    } else {
      g.moveTo(px, py);
      drawing = true;
      if (!Number.isFinite(y[i + 1])) lone.push([px, py]); // no line goes through it
    }
  }
  if (style === "dots") g.fill();
  else g.stroke();
  for (const [px, py] of lone) {
    outline(g, DISC, px, py, 2.5);
    g.fill();
  }
  g.setLineDash([]);
  g.globalAlpha = 1;
}

// Corners of the shapes, as turns of the hand of a clock (1 = half round) and lengths.
const SHAPES = [
  null, // a disc
  [[0.25], [0.75], [1.25], [1.75]],
  [[0], [2 / 3], [4 / 3]],
  [[0], [0.5], [1], [1.5]],
  [[1], [5 / 3], [1 / 3]],
  [...Array(10).keys()].map((i) => [i / 5, i % 2 ? 0.45 : 1]),
];
const [DISC, , , , DOWN, STAR] = SHAPES.keys();

function outline(g, shape, x, y, r) {
  g.beginPath();
  for (const [turn, far = 1] of SHAPES[shape] ?? []) {
    g.lineTo(x + 1.25 * r * far * Math.sin(turn * Math.PI), y - 1.25 * r * far * Math.cos(turn * Math.PI));
  }
  if (shape === DISC) g.arc(x, y, r, 0, 7);
  g.closePath();
}

function marker(g, shape, x, y, r, fill, edge) {
  outline(g, shape, x, y, r);
  [g.fillStyle, g.strokeStyle, g.lineWidth, g.lineJoin] = [fill, edge, 1, "miter"];
  g.fill();
  g.stroke();
}

// A grid of values as a picture, its first row at the bottom; color(value) -> [r, g, b, alpha].
function raster(values, [rows, columns], color) {
  const canvas = new OffscreenCanvas(columns, rows);
  const g = canvas.getContext("2d");
  const image = g.createImageData(columns, rows);
  values.forEach((value, i) => {
    const row = rows - 1 - Math.floor(i / columns);
    image.data.set(color(value), 4 * (row * columns + (i % columns)));
  });
  g.putImageData(image, 0, 0);
  return canvas;
}

// The line on which a grid has this level, in cells from its first value (marching squares).
function contour(path, values, [rows, columns], level) {
  for (let row = 0; row < rows - 1; row++) {
    for (let column = 0; column < columns - 1; column++) {
      const first = row * columns + column;
      const ring = [
        [values[first], column, row],
        [values[first + 1], column + 1, row],
        [values[first + columns + 1], column + 1, row + 1],
        [values[first + columns], column, row + 1],
      ];
      const ends = [];
      ring.forEach(([a, x0, y0], i) => {
        const [b, x1, y1] = ring[(i + 1) % 4];
        const part = (level - a) / (b - a);
        if (a < level !== b < level && Number.isFinite(part)) {
          ends.push([x0 + part * (x1 - x0), y0 + part * (y1 - y0)]);
        }
      });
      for (let i = 0; i + 1 < ends.length; i += 2) {
        path.moveTo(...ends[i]);
        path.lineTo(...ends[i + 1]);
      }
    }
  }
}

// A grid's picture and lines, stretched over the box: values sit on its corners and between.
function drawGrid(g, { left, right, top, bottom }, [rows, columns], image, lines, color, width) {
  const [kx, ky] = [(right - left) / (columns - 1), (bottom - top) / (rows - 1)];
  g.imageSmoothingEnabled = true;
  g.save();
  g.beginPath();
  g.rect(left, top, right - left, bottom - top);
  g.clip();
  g.drawImage(image, left - kx / 2, top - ky / 2, right - left + kx, bottom - top + ky);
  const path = new Path2D();
  path.addPath(lines, new DOMMatrix([kx, 0, 0, -ky, left, bottom]));
  [g.strokeStyle, g.lineWidth] = [color, width];
  g.stroke(path);
  g.restore();
}

function rgb(color) {
  return [1, 3, 5].map((i) => parseInt(color.slice(i, i + 2), 16));
}

// --- the kinds -------------------------------------------------------------------------------------

function readCurves(frame) {
  return (frame.curves ?? []).map((curve) => ({ ...curve, x: floats(curve.x), y: floats(curve.y) }));
}

function entriesOf(view) {
  const seen = new Map();
  for (const { name, color, style, legend } of view.frame.curves) {
    if (legend && !seen.has(name)) seen.set(name, { name, color: view.color(color), style });
  }
  return [...seen.values()];
}

function spoken(tip) {
  return (tip?.lines ?? []).map(({ text, value }) => (value ? `${text} ${value}` : text)).join(", ");
}

const shown = (view) => view.frame.curves.filter((curve) => !view.hidden.has(curve.name));

// Labels of marks in up to three rows, so that close ones do not overlap; what finds no room is in the tip.
function drawMarks(view, g, marks, { sx, box }) {
  const placed = marks.map((mark) => ({ ...mark, at: Math.round(sx.at(mark.x)) + 0.5 }));
  const seen = placed.filter(({ at }) => at >= box.left - 1 && at <= box.right + 1);
  const paint = ({ color }) => (color === null ? view.theme.soft : view.color(color));
  for (const mark of seen) rule(g, mark.at, box.top, mark.at, box.bottom, paint(mark), 1, [2, 3]);
  const ends = [-Infinity, -Infinity, -Infinity];
  for (const mark of seen.sort((a, b) => a.at - b.at)) {
    const wide = g.measureText(mark.text).width;
    const fits = mark.at + 4 + wide <= box.right + 8;
    const start = fits ? mark.at + 4 : Math.max(box.left + 2, mark.at - 4 - wide);
    const row = ends.findIndex((end) => start > end + 8);
    if (row < 0) continue;
    ends[row] = start + wide;
    write(g, mark.text, start, box.top + 8 + 15 * row, { color: paint(mark), behind: view.theme.ground });
  }
}

const curves = {
  read: (frame) => ({ ...frame, curves: readCurves(frame), marks: frame.marks ?? [] }),
  entries: entriesOf,
  draw(view, g, width, height) {
    const { frame, spec, theme } = view;
    const used = shown(view).length ? shown(view) : frame.curves;
    const bare = !used.some((curve) => curve.x.length);
    const x = { ...fitted(spec.x, used.map((curve) => curve.x), 0), bare };
    const y = { ...fitted({ ...spec.y, log: view.log }, used.map((curve) => curve.y), 0.05), bare };
    const place = (view.place = plane(view, g, width, height, x, y));
    const { sx, sy, box } = place;
    if (bare) {
      const middle = [(box.left + box.right) / 2, (box.top + box.bottom) / 2];
      write(g, spec.empty, ...middle, { align: "center", color: theme.soft });
      return;
    }
    inside(g, box, () => {
      for (const curve of shown(view)) {
        const smooth = view.smooth > 0 && (curve.style === "line" || curve.style === "dashed");
        drawCurve(g, curve, place, view.color(curve.color), smooth ? 0.3 : 1);
        if (smooth) {
          drawCurve(g, { ...curve, y: smoothed(curve.y, view.smooth) }, place, view.color(curve.color));
        }
      }
    });
    drawMarks(view, g, frame.marks, place);
    if (frame.cursor !== null && frame.cursor !== undefined) {
      const at = sx.at(frame.cursor);
      rule(g, at, box.top, at, box.bottom, theme.ink, 1.5);
      marker(g, DOWN, at, box.top - 1, 5, theme.ink, theme.ground);
    }
    if (view.at === null) return;
    const at = sx.at(view.at);
    rule(g, at, box.top, at, box.bottom, theme.soft);
    for (const curve of shown(view)) {
      const py = sy.at(valueAt(curve, view.at));
      if (py >= box.top - 3 && py <= box.bottom + 3) {
        marker(g, DISC, at, py, 3.5, view.color(curve.color), theme.ground);
      }
    }
  },
  hover(view, px) {
    let [nearest, distance] = [null, Infinity];
    for (const { x: xs } of shown(view)) {
      const after = firstFrom(xs, view.place.sx.value(px));
      for (const x of [xs[after - 1], xs[after]]) {
        const away = Math.abs(view.place.sx.at(x) - px);
        if (away < distance) [nearest, distance] = [x, away];
      }
    }
    view.at = nearest;
  },
  tip(view) {
    if (view.at === null) return null;
    const at = view.place.sx.at(view.at);
    const lines = [{ text: `${view.spec.x.label} ${short(view.at, 6)}` }];
    for (const mark of view.frame.marks) {
      if (Math.abs(view.place.sx.at(mark.x) - at) < 5) lines.push({ text: mark.text });
    }
    const values = shown(view).map((curve) => [curve, valueAt(curve, view.at)]);
    for (const [curve, value] of values.filter(([, value]) => Number.isFinite(value)).slice(0, 10)) {
      lines.push({ color: view.color(curve.color), text: curve.name, value: short(value, 4) });
    }
    if (values.length > 10) lines.push({ text: `and ${values.length - 10} more` });
    return { at, lines };
  },
  key(view, { key, shiftKey }) {
    const all = shown(view).map((curve) => curve.x).filter((xs) => xs.length);
    if (!all.length || !["ArrowLeft", "ArrowRight", "Home", "End"].includes(key)) return null;
    const [first, last] = [Math.min(...all.map((xs) => xs[0])), Math.max(...all.map((xs) => xs.at(-1)))];
    if (key === "Home") view.at = first;
    else if (key === "End" || view.at === null) view.at = last;
    else {
      for (let times = shiftKey ? 10 : 1; times; times--) {
        const right = key === "ArrowRight";
        const next = all.map((xs) => (right ? xs.find((x) => x > view.at) : xs[firstFrom(xs, view.at) - 1]));
        const there = next.filter((x) => x !== undefined);
        if (there.length) view.at = right ? Math.min(...there) : Math.max(...there);
      }
    }
    return spoken(this.tip(view));
  },
  says: (view) =>
    view.frame.curves
      .filter((curve) => curve.legend && curve.y.length)
      .map((curve) => `${curve.name} ${short(lastFinite(curve.y))}`)
      .join(", ") || view.spec.empty,
};

const boundary = {
  read(frame) {
    if (!frame.shape) return frame;
    const [rows, columns] = frame.shape;
    return {
      ...frame,
      shape: [rows, columns],
      scores: bytes(frame.scores),
      points: floats(frame.points),
      labels: bytes(frame.labels),
    };
  },
  entries: (view) =>
    view.spec.classes.map((name, i) => ({ name, color: view.color(i), marker: i % 6 })),
  draw(view, g, width, height) {
    const { frame, spec, theme } = view;
    const place = (view.place = plane(view, g, width, height, spec.x, spec.y));
    if (!frame.shape) return;
    const paints = spec.classes.map((_, i) => rgb(view.color(i)));
    view.cache(frame, () => {
      const shade = frame.soft
        ? (v) => [...paints[v < 128 ? 0 : 1], 20 + Math.abs(v - 127.5) * 0.7]
        : (v) => [...paints[v], 80];
      const lines = new Path2D();
      if (frame.soft) contour(lines, frame.scores, frame.shape, 127.5);
      else for (const i of paints.keys()) contour(lines, frame.scores.map((v) => v === i), frame.shape, 0.5);
      return [raster(frame.scores, frame.shape, shade), lines];
    });
    drawGrid(g, place.box, frame.shape, ...view.cached, theme.ink, frame.soft ? 1.5 : 1);
    inside(g, place.box, () => {
      for (let i = 0; i < frame.labels.length; i++) {
        const label = frame.labels[i];
        if (view.hidden.has(spec.classes[label])) continue;
        const at = [place.sx.at(frame.points[2 * i]), place.sy.at(frame.points[2 * i + 1])];
        marker(g, label % 6, ...at, 3.5, view.color(label), theme.ground);
      }
    });
    if (view.at) drawCross(view, g);
  },
  hover: hoverPlane,
  key: keyPlane,
  tip(view) {
    if (!view.at || !view.frame.shape) return null;
    const { spec, frame } = view;
    const [x, y] = view.at;
    const [rows, columns] = frame.shape;
    const share = ({ low, high }, v) => (v - low) / (high - low);
    const [row, column] = [Math.round(share(spec.y, y) * (rows - 1)), Math.round(share(spec.x, x) * (columns - 1))];
    const value = frame.scores[row * columns + column];
    const part = frame.soft ? value / 255 : null;
    const label = frame.soft ? Number(part >= 0.5) : value;
    const text = spec.classes[label];
    const certain = part === null ? "" : short(part >= 0.5 ? part : 1 - part, 2);
    const lines = [{ text: `(${short(x)}, ${short(y)})` }, { color: view.color(label), text, value: certain }];
    return { at: view.place.sx.at(x), lines };
  },
  says: (view) => (view.frame.labels ? `${view.frame.labels.length} points` : ""),
};

function hoverPlane(view, px, py) {
  const { sx, sy, box } = view.place;
  const within = px >= box.left && px <= box.right && py >= box.top && py <= box.bottom;
  view.at = within ? [sx.value(px), sy.value(py)] : null;
}

// Arrow keys on a plane: a fiftieth of it, with shift a tenth. Gives null for another key.
function moved([x, y], { key, shiftKey }, { x: across, y: along }) {
  const step = shiftKey ? 0.1 : 0.02;
  const move = { ArrowLeft: [-step, 0], ArrowRight: [step, 0], ArrowUp: [0, step], ArrowDown: [0, -step] }[key];
  if (!move) return null;
  const held = (v, { low, high }) => Number(Math.max(low, Math.min(high, v)).toPrecision(6));
  const go = (v, part, axis) => held(v + part * (axis.high - axis.low), axis);
  return [go(x, move[0], across), go(y, move[1], along)];
}

const middle = ({ x, y }) => [(x.low + x.high) / 2, (y.low + y.high) / 2];

function keyPlane(view, event) {
  const to = moved(view.at ?? middle(view.spec), event, view.spec);
  if (!to) return null;
  view.at = to;
  return spoken(this.tip(view));
}

function drawCross(view, g) {
  const { sx, sy, box } = view.place;
  const [px, py] = [sx.at(view.at[0]), sy.at(view.at[1])];
  rule(g, px, box.top, px, box.bottom, view.theme.soft, 0.7);
  rule(g, box.left, py, box.right, py, view.theme.soft, 0.7);
}

const surface = {
  label: "Arrow keys move the start.",
  read: (frame, model) => {
    const { relief, shape } = model.get("backdrop") ?? {};
    return { ...frame, curves: readCurves(frame), minima: frame.minima ?? [], shape, relief: relief && floats(relief) };
  },
  entries: entriesOf,
  draw(view, g, width, height) {
    const { frame, spec, theme } = view;
    const place = (view.place = plane(view, g, width, height, spec.x, spec.y));
    if (frame.shape) {
      view.cache(view.model.get("backdrop"), () => {
        const lines = new Path2D();
        for (let level = 1; level < 14; level++) contour(lines, frame.relief, frame.shape, level / 14);
        const shade = (v) => [128, 128, 128, Number.isNaN(v) ? 0 : 90 * (1 - v)];
        return [raster(frame.relief, frame.shape, shade), lines];
      });
      drawGrid(g, place.box, frame.shape, ...view.cached, theme.faint, 1);
    }
    for (const [x, y] of frame.minima) marker(g, STAR, place.sx.at(x), place.sy.at(y), 6, theme.ink, theme.ground);
    inside(g, place.box, () => {
      for (const path of shown(view)) {
        const color = view.color(path.color);
        drawCurve(g, path, place, color);
        const [px, py] = [place.sx.at(path.x.at(-1)), place.sy.at(path.y.at(-1))];
        if (!Number.isNaN(px + py)) marker(g, DISC, px, py, 4, color, theme.ground);
      }
    });
    const start = this.start(view);
    if (start) {
      outline(g, DISC, place.sx.at(start[0]), place.sy.at(start[1]), 6);
      [g.strokeStyle, g.lineWidth] = [theme.ink, 2];
      g.stroke();
    }
    if (view.at) drawCross(view, g);
  },
  start: (view) => view.moving ?? view.frame.start ?? null,
  hover: hoverPlane,
  tip: (view) =>
    view.at && { at: view.place.sx.at(view.at[0]), lines: [{ text: `(${short(view.at[0])}, ${short(view.at[1])})` }] },
  pick(view, at) {
    view.moving = at; // until a frame has another start
    view.send("picked", at);
  },
  up(view, px, py) {
    hoverPlane(view, px, py);
    if (view.at) this.pick(view, view.at.map((v) => Number(v.toPrecision(6))));
  },
  key(view, event) {
    const to = moved(this.start(view) ?? middle(view.spec), event, view.spec);
    if (!to) return null;
    view.at = null;
    this.pick(view, to);
    return `start at ${short(to[0])}, ${short(to[1])}`;
  },
  says: (view) =>
    view.frame.curves
      .filter((path) => path.x.length)
      .map((path) => `${path.name} at ${short(path.x.at(-1))}, ${short(path.y.at(-1))}`)
      .join(", "),
};

const images = {
  read: (frame) => (frame.shape ? { ...frame, images: bytes(frame.images) } : { captions: [] }),
  layout(view, width) {
    const [rowsOf, count] = [view.spec.columns, view.frame.captions.length];
    const columns = Math.max(1, Math.min(rowsOf, Math.floor(width / 64)));
    const rows = Math.ceil(count / columns);
    const slot = Math.min(Math.floor(width / columns), 110);
    const room = view.spec.fixed ? view.spec.fixed / Math.max(1, rows) - 40 : Infinity;
    const size = Math.max(16, Math.min(slot - 8, room));
    const [, high, wide] = view.frame.shape ?? [0, 1, 1];
    const factor = size / Math.max(high, wide);
    const lines = Math.max(1, ...this.texts(view, slot).map((text) => text.length));
    const [w, h] = [wide * factor, high * factor];
    return { columns, rows, slot, w, h, line: h + 12 + 15 * lines };
  },
  height(view, width) {
    const { rows, line } = this.layout(view, width);
    return view.spec.fixed ?? Math.max(60, rows * line);
  },
  // Each caption with its sign, on two lines at most.
  texts: ({ frame, g }, slot) =>
    frame.captions.map((caption, i) => {
      const sign = frame.right ? [frame.right[i] ? "✓" : "✗"] : [];
      let [first, ...rest] = [...sign, ...caption.split(" ")];
      while (rest.length && g.measureText(`${first} ${rest[0]}`).width <= slot - 6) first += ` ${rest.shift()}`;
      return [first, rest.join(" ")].filter(Boolean).map((line) => cut(g, line, slot - 6));
    }),
  draw(view, g, width) {
    const { frame, theme } = view;
    const place = (view.place = this.layout(view, width));
    if (!frame.shape) write(g, "No images yet.", width / 2, 30, { align: "center", color: theme.soft });
    if (!frame.captions.length) return;
    const [, high, wide] = frame.shape;
    const { columns, slot, w, h, line } = place;
    const texts = this.texts(view, slot);
    g.imageSmoothingEnabled = false;
    frame.captions.forEach((_, i) => {
      const [x, y] = [(i % columns) * slot + (slot - w) / 2, Math.floor(i / columns) * line + 3];
      const pixels = frame.images.subarray(i * high * wide, (i + 1) * high * wide);
      g.save();
      g.transform(1, 0, 0, -1, x, y + h); // a raster's first row is its lowest
      g.drawImage(raster(pixels, [high, wide], (v) => [v, v, v, 255]), 0, 0, w, h);
      g.restore();
      const good = frame.right?.[i];
      const color = good === undefined ? theme.ink : view.color(good ? 2 : 5);
      [g.strokeStyle, g.lineWidth] = [good === undefined ? theme.faint : color, good === false ? 2.5 : 1];
      if (view.at === i) [g.strokeStyle, g.lineWidth] = [theme.ink, 3];
      g.strokeRect(x - 0.5, y - 0.5, w + 1, h + 1);
      texts[i].forEach((text, row) => {
        write(g, text, x + w / 2, y + h + 11 + 15 * row, { align: "center", color });
      });
    });
  },
  hover(view, px, py) {
    const { columns, slot, line } = view.place;
    const [column, row] = [Math.floor(px / slot), Math.floor(py / line)];
    const i = row * columns + column;
    view.at = column < columns && i < view.frame.captions.length ? i : null;
  },
  key(view, { key }) {
    const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -view.place.columns, ArrowDown: view.place.columns }[key];
    const count = view.frame.captions.length;
    if (!step || !count) return null;
    view.at = view.at === null ? 0 : Math.max(0, Math.min(count - 1, view.at + step));
    const good = view.frame.right?.[view.at];
    const sign = good === undefined ? "" : good ? ", right" : ", wrong";
    return `${view.at + 1} of ${count}: ${view.frame.captions[view.at]}${sign}`;
  },
  tip: () => null,
  says(view) {
    const { captions, right } = view.frame;
    return `${captions.length} images${right ? `, ${right.filter((good) => !good).length} wrong` : ""}`;
  },
};

const bars = {
  read: (frame) => (frame.values ? { ...frame, values: floats(frame.values) } : { names: [], values: [] }),
  lying(view, g, width) {
    const slot = (width - 60) / view.frame.names.length;
    return view.frame.names.some((name) => g.measureText(name).width + 6 > slot);
  },
  height(view, width) {
    const { names } = view.frame;
    return this.lying(view, view.g, width) ? Math.max(view.spec.height, names.length * 20 + 46) : view.spec.height;
  },
  draw(view, g, width, height) {
    const { frame, spec, theme } = view;
    const { names, values, texts, colors } = frame;
    const lying = this.lying(view, g, width);
    const zero = spec.y.log ? [] : [[0]];
    const y = fitted(spec.y, [values, ...zero], 0.15);
    if (!spec.y.log && !values.some((v) => v < 0)) y.low = spec.y.low ?? 0;
    if (!spec.y.log && !values.some((v) => v > 0)) y.high = spec.y.high ?? (values.some((v) => v < 0) ? 0 : 1);
    const ends = [-0.5, names.length - 0.5];
    const place = (view.place = lying
      ? plane(view, g, width, height, y, { names, low: ends[1], high: ends[0] })
      : plane(view, g, width, height, { names, low: ends[0], high: ends[1] }, { ...y, bare: !names.length }));
    Object.assign(place, { lying });
    const { sx, sy, box } = place;
    const along = lying ? sx : sy;
    const base = along.at(spec.y.log ? y.low : Math.max(0, y.low));
    const slot = (lying ? box.bottom - box.top : box.right - box.left) / Math.max(1, names.length);
    const thick = Math.min(0.7 * slot, 48);
    names.forEach((_, i) => {
      const across = (lying ? sy : sx).at(i);
      const end = along.at(values[i]);
      const tip = Number.isNaN(end) ? base : end;
      g.fillStyle = view.color(colors[i]);
      g.globalAlpha = view.at === null || view.at === i ? 1 : 0.6;
      const side = [across - thick / 2, thick];
      const long = [Math.min(base, tip), Math.abs(tip - base)];
      if (lying) g.fillRect(long[0], side[0], long[1], side[1]);
      else g.fillRect(side[0], long[0], side[1], long[1]);
      g.globalAlpha = 1;
      const back = lying ? tip < base : tip > base;
      const style = { color: theme.ink, align: lying ? (back ? "right" : "left") : "center", behind: theme.ground };
      if (lying) write(g, texts[i], tip + (back ? -4 : 4), across, style);
      else if (g.measureText(texts[i]).width < slot) write(g, texts[i], across, tip + (back ? 9 : -8), style);
    });
    if (names.length && base > (lying ? box.left : box.top)) {
      if (lying) rule(g, base, box.top, base, box.bottom, theme.soft);
      else rule(g, box.left, base, box.right, base, theme.soft);
    }
  },
  hover(view, px, py) {
    const { sx, sy, lying } = view.place;
    const i = Math.round(lying ? sy.value(py) : sx.value(px));
    view.at = i >= 0 && i < view.frame.names.length ? i : null;
  },
  tip(view) {
    const { names, texts, colors } = view.frame;
    // of bars on their side all is written beside them
    if (view.at === null || view.at >= names.length || view.place.lying) return null;
    const line = { color: view.color(colors[view.at]), text: names[view.at], value: texts[view.at] };
    return { at: view.place.sx.at(view.at), lines: [line] };
  },
  key(view, { key }) {
    const step = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 }[key];
    const { names, texts } = view.frame;
    if (!step || !names.length) return null;
    view.at = view.at === null ? 0 : Math.max(0, Math.min(names.length - 1, view.at + step));
    return `${names[view.at]} ${texts[view.at]}`;
  },
  says: (view) => view.frame.names.map((name, i) => `${name} ${view.frame.texts[i]}`).join(", "),
};

const sketch = {
  label: "Left and right arrows choose a place, up and down draw the value there.",
  read: (frame) => ({ ...frame, curves: readCurves(frame) }),
  entries: (view) => [
    { name: "your prediction", color: view.color(1), style: "dashed" },
    ...entriesOf(view),
  ],
  drawn: (view) => view.model.get("drawn"),
  draw(view, g, width, height) {
    const { frame, spec, theme } = view;
    const place = (view.place = plane(view, g, width, height, spec.x, spec.y));
    const { sx, sy, box } = place;
    const drawn = this.drawn(view);
    view.note.textContent = frame.lesson ?? "";
    view.clear.hidden = view.model.get("locked");
    view.clear.disabled = drawn.every((v) => v === null);
    if (!view.model.get("locked")) {
      for (const knot of spec.knots) rule(g, sx.at(knot), box.bottom - 5, sx.at(knot), box.bottom, theme.ink);
      const left = drawn.filter((v) => v === null).length;
      const begin = "Draw your prediction here: drag, or use the arrow keys.";
      const todo = left === drawn.length ? begin : `${left} places left`;
      if (left) write(g, todo, (box.left + box.right) / 2, box.top + 10, { align: "center", color: theme.soft });
      if (view.knot !== null) {
        const at = sx.at(spec.knots[view.knot]);
        rule(g, at, box.top, at, box.bottom, theme.faint, 7);
      }
    }
    inside(g, box, () => {
      for (const curve of shown(view)) drawCurve(g, curve, place, view.color(curve.color));
      if (view.hidden.has("your prediction")) return;
      const y = drawn.map((v) => v ?? NaN);
      drawCurve(g, { x: spec.knots, y, style: "dashed" }, place, view.color(1));
      y.forEach((v, i) => {
        if (!Number.isNaN(v)) marker(g, DISC, sx.at(spec.knots[i]), sy.at(v), 3.5, view.color(1), theme.ground);
      });
    });
  },
  // Draw on the straight line from one place of the pointer to the next.
  put(view, [x0, y0], [x1, y1], reach) {
    const { sx, sy, box } = view.place;
    const drawn = [...this.drawn(view)];
    const value = (py) => {
      const { low, high } = view.spec.y;
      const exact = Math.max(low, Math.min(high, sy.value(Math.max(box.top, Math.min(box.bottom, py)))));
      return Number(exact.toPrecision(4));
    };
    const places = view.spec.knots.map(sx.at);
    places.forEach((at, i) => {
      if ((at - x0) * (at - x1) < 0) drawn[i] = value(y0 + ((at - x0) / (x1 - x0)) * (y1 - y0));
    });
    const away = places.map((at) => Math.abs(at - x1));
    const nearest = away.indexOf(Math.min(...away));
    if (away[nearest] <= 6 || (reach && drawn[nearest] === null)) drawn[nearest] = value(y1);
    view.set("drawn", drawn);
  },
  down(view, px, py) {
    view.knot = null;
    this.put(view, [px, py], [px, py], true);
  },
  drag(view, from, to) {
    this.put(view, from, to, false);
  },
  up(view, px, py) {
    this.put(view, [px, py], [px, py], true);
    view.model.save_changes();
  },
  key(view, { key, shiftKey }) {
    const { knots, x, y } = view.spec;
    const across = { ArrowLeft: -1, ArrowRight: 1, Home: -knots.length, End: knots.length }[key];
    const rise = { ArrowUp: 1, ArrowDown: -1, PageUp: 5, PageDown: -5, Delete: NaN, Backspace: NaN }[key];
    if (view.model.get("locked") || (!across && rise === undefined)) return null;
    const drawn = [...this.drawn(view)];
    if (across && view.knot !== null) view.knot = Math.max(0, Math.min(knots.length - 1, view.knot + across));
    view.knot ??= key === "End" ? knots.length - 1 : 0;
    if (Number.isNaN(rise)) drawn[view.knot] = null;
    else if (rise) {
      const steps = scale(y, 0, shiftKey ? 8 : 40);
      // a new place begins at the height of the one before it
      const before = drawn.slice(0, view.knot).findLast((v) => v !== null);
      const begin = before ?? steps.value(steps.at(y.high) / 2);
      const to = drawn[view.knot] === null ? begin : steps.value(steps.at(drawn[view.knot]) + rise);
      drawn[view.knot] = Number(Math.max(y.low, Math.min(y.high, to)).toPrecision(4));
    }
    if (rise !== undefined) view.send("drawn", drawn);
    const left = drawn.filter((v) => v === null).length;
    const here = drawn[view.knot] === null ? "nothing yet" : short(drawn[view.knot]);
    return `${x.label} ${short(knots[view.knot])}: ${here}; ${left ? `${left} places left` : "complete"}`;
  },
  tip: () => null,
  says(view) {
    const drawn = this.drawn(view);
    const values = drawn.map((v) => (v === null ? "nothing" : short(v))).join(", ");
    const truth = view.frame.curves.map((curve) => `; ${curve.name} ends at ${short(lastFinite(curve.y))}`);
    return `your prediction: ${values}${truth.join("")}`;
  },
};

const KINDS = { curves, boundary, images, bars, surface, sketch };

// --- the view --------------------------------------------------------------------------------------

function make(name, attributes = {}, ...children) {
  const node = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

class View {
  constructor(model, el) {
    this.model = model;
    this.spec = model.get("spec");
    this.kind = KINDS[model.get("kind")];
    this.hidden = new Set(); // names of curves
    this.at = null; // where the crosshair is
    this.moving = null; // a start that was picked and has not come back yet
    this.knot = null; // where the keys draw
    this.log = Boolean(this.spec.y?.log);
    this.smooth = 0;
    this.count = 0;
    this.build(el);
    this.listen();
    this.schedule();
  }

  build(el) {
    el.classList.add("trainlab-host");
    this.legend = make("div", { class: "legend", role: "group", "aria-label": "curves" });
    this.tools = make("div", { class: "tools" });
    const active = ["sketch", "surface"].includes(this.model.get("kind"));
    this.canvas = make("canvas", { role: active ? "application" : "img", tabindex: "0" });
    this.canvas.style.touchAction = active ? "none" : "pan-y";
    if (active) this.canvas.style.cursor = "crosshair";
    this.g = this.canvas.getContext("2d");
    this.tip = make("div", { class: "tip", hidden: "" });
    this.said = make("div", { class: "said", "aria-live": "polite" });
    this.stage = make("div", { class: "stage" }, this.tools, this.canvas, this.tip);
    this.stage.style.height = `${this.spec.height}px`;
    this.note = make("div", { class: "note" });
    const title = make("span", { class: "title" }, this.spec.title);
    this.head = make("div", { class: "head" }, ...(this.spec.title ? [title] : []), this.legend);
    this.root = make("div", { class: "trainlab-chart" }, make("style", {}, STYLE), this.head, this.stage, this.note, this.said);
    // its keys are its own: in command mode JupyterLab would take arrows, and delete the cell at d, d
    this.root.addEventListener("keydown", (event) => {
      const theirs = event.ctrlKey || event.metaKey || event.altKey || event.key === "Escape";
      if (!theirs && !(event.shiftKey && event.key === "Enter")) event.stopPropagation();
    });
    if (this.spec.tools) this.addTools();
    if (this.kind === sketch) this.addClear();
    el.append(this.root);
  }

  addTools() {
    const log = make("button", { type: "button", "aria-pressed": this.log, title: "logarithmic scale of y" }, "log");
    log.addEventListener("click", () => {
      this.log = !this.log;
      log.setAttribute("aria-pressed", this.log);
      this.schedule();
    });
    const range = make("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, "aria-label": "smoothing" });
    range.addEventListener("input", () => {
      this.smooth = Number(range.value);
      this.schedule();
    });
    this.tools.append(make("label", {}, "smooth", range), log);
  }

  addClear() {
    this.clear = make("button", { type: "button" }, "Clear");
    this.clear.addEventListener("click", () => this.send("drawn", this.spec.knots.map(() => null)));
    this.tools.append(this.clear);
  }

  listen() {
    this.ended = new AbortController();
    this.schedule = this.schedule.bind(this);
    this.followed = ["frame", "backdrop", "drawn", "locked"].map((name) => `change:${name}`);
    for (const name of this.followed) this.model.on(name, this.schedule);
    this.sizes = new ResizeObserver(this.schedule);
    this.sizes.observe(this.stage);
    this.themes = new MutationObserver(() => {
      // the style sheet arrives some time after the attribute
      for (const wait of [0, 300, 1000]) setTimeout(this.schedule, wait);
    });
    this.themes.observe(document.body, { attributeFilter: ["data-jp-theme-name", "data-jp-theme-light"] });
    const on = (name, act) => this.canvas.addEventListener(name, act, { signal: this.ended.signal });
    on("pointermove", (event) => this.pointed(event));
    on("pointerdown", (event) => this.pressed(event));
    on("pointerup", (event) => this.released(event));
    on("pointercancel", () => (this.held = null));
    on("pointerleave", () => this.leave());
    on("blur", () => this.leave());
    on("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey || !this.place) return;
      if (event.key === "Escape") this.leave();
      const said = this.kind.key(this, event);
      if (said === null) return;
      event.preventDefault();
      this.said.textContent = said;
      this.schedule();
    });
  }

  get open() {
    return Boolean(this.place) && !(this.kind === sketch && this.model.get("locked"));
  }

  pointed(event) {
    const [px, py] = [event.offsetX, event.offsetY];
    if (!this.open) return;
    if (this.held && this.kind.drag) {
      this.kind.drag(this, this.held, [px, py]);
      this.held = [px, py];
    }
    this.kind.hover?.(this, px, py);
    this.schedule();
  }

  pressed(event) {
    if (!this.open || event.button) return;
    this.held = [event.offsetX, event.offsetY];
    this.canvas.setPointerCapture(event.pointerId);
    this.kind.down?.(this, ...this.held);
    this.schedule();
  }

  released(event) {
    if (this.held && this.open) this.kind.up?.(this, event.offsetX, event.offsetY);
    this.held = null;
    this.schedule();
  }

  leave() {
    this.at = this.knot = null;
    this.schedule();
  }

  set(name, value) {
    this.model.set(name, value);
  }

  send(name, value) {
    this.model.set(name, value);
    this.model.save_changes();
  }

  color(place) {
    const { colors } = this.spec;
    return colors[place % colors.length];
  }

  // `this.cached` is what `build` gives for `source`, built anew only when that is another object.
  cache(source, build) {
    if (this.source !== source) [this.source, this.cached] = [source, build()];
  }

  schedule() {
    this.asked ||= requestAnimationFrame(() => {
      this.asked = 0;
      this.paint();
    });
  }

  paint() {
    const width = this.stage.clientWidth;
    const fresh = this.raw !== this.model.get("frame");
    if (!width) return; // out of sight: there is a resize when it comes back
    if (fresh || this.back !== this.model.get("backdrop")) {
      [this.raw, this.back] = [this.model.get("frame"), this.model.get("backdrop")];
      const start = `${this.frame?.start}`;
      this.frame = this.kind.read(this.raw ?? {}, this.model);
      if (`${this.frame.start}` !== start) this.moving = null;
    }
    this.readTheme();
    this.g.font = this.theme.font;
    const height = this.kind.height?.(this, width) ?? this.spec.height;
    this.fit(width, height);
    this.g.clearRect(0, 0, width, height);
    this.kind.draw(this, this.g, width, height);
    this.drawLegend();
    this.drawTip(width);
    const parts = [this.spec.title, this.spec.alt, this.kind.says(this), this.kind.label];
    this.canvas.setAttribute("aria-label", parts.filter(Boolean).join(". "));
    this.root.dataset.painted = performance.now();
    if (fresh) this.root.dataset.frame = ++this.count;
  }

  readTheme() {
    const style = getComputedStyle(this.root);
    const read = (name, other) => style.getPropertyValue(name).trim() || other;
    this.theme = {
      ink: read("--jp-content-font-color1", "#808080"),
      soft: read("--jp-content-font-color2", "#808080"),
      grid: read("--jp-border-color3", "#80808040"),
      faint: read("--jp-border-color1", "#80808080"),
      ground: read("--jp-layout-color0", "#ffffff00"),
      font: `12px ${read("--jp-ui-font-family", "sans-serif")}`,
    };
  }

  fit(width, height) {
    const dense = window.devicePixelRatio || 1;
    const [w, h] = [Math.round(width * dense), Math.round(height * dense)];
    if (this.canvas.width !== w || this.canvas.height !== h) {
      [this.canvas.width, this.canvas.height] = [w, h];
      this.stage.style.height = `${height}px`;
    }
    this.g.setTransform(dense, 0, 0, dense, 0, 0);
    this.g.font = this.theme.font;
  }

  drawLegend() {
    const entries = this.kind.entries?.(this) ?? [];
    this.head.hidden = !this.spec.title && !entries.length;
    const key = JSON.stringify(entries.map(({ name, color, style }) => [name, color, style, this.hidden.has(name)]));
    if (key === this.legendKey) return; // so that a button keeps the focus while frames come in
    this.legendKey = key;
    const focused = [...this.legend.children].indexOf(document.activeElement);
    const buttons = entries.map((entry) => {
      const pressed = !this.hidden.has(entry.name);
      const button = make("button", { type: "button", "aria-pressed": pressed, title: "show or hide" });
      button.append(swatch(entry), entry.name);
      button.addEventListener("click", () => {
        if (!this.hidden.delete(entry.name)) this.hidden.add(entry.name);
        this.schedule();
      });
      return button;
    });
    this.legend.replaceChildren(...buttons);
    buttons[focused]?.focus();
  }

  drawTip(width) {
    const tip = this.kind.tip(this);
    this.tip.hidden = !tip;
    if (!tip) return;
    const rows = tip.lines.map(({ color, text, value }) => {
      const row = make("div", {}, ...(color ? [swatch({ color, style: "line" })] : []), text);
      if (value) row.append(make("b", {}, value));
      return row;
    });
    this.tip.replaceChildren(...rows);
    const right = tip.at > width / 2;
    this.tip.style.left = right ? "auto" : `${tip.at + 10}px`;
    this.tip.style.right = right ? `${width - tip.at + 10}px` : "auto";
  }

  remove() {
    for (const name of this.followed) this.model.off(name, this.schedule);
    for (const each of [this.sizes, this.themes]) each.disconnect();
    this.ended.abort();
    cancelAnimationFrame(this.asked);
    this.root.remove();
  }
}

// The sign of a curve or of a class beside its name.
function swatch({ color, style, marker: shape }) {
  const canvas = make("canvas", { width: 32, height: 20, "aria-hidden": "true" });
  const g = canvas.getContext("2d");
  g.scale(2, 2);
  if (shape !== undefined) marker(g, shape, 8, 5, 3.5, color, color);
  else if (style === "dots") drawCurve(g, { x: [3, 8, 13], y: [5, 5, 5], style }, { sx: plain, sy: plain }, color);
  else drawCurve(g, { x: [1, 15], y: [5, 5], style }, { sx: plain, sy: plain }, color);
  return canvas;
}

const plain = { at: (v) => v };

// In command mode JupyterLab would take a panel's keys: the arrows from sliders and lists, Enter from
// buttons, and d, d would delete the cell. Shortcuts with a modifier, and Escape, stay JupyterLab's.
// It is here and not with the sliders, since every panel has a chart.
function keep(event) {
  const { target, key, shiftKey, ctrlKey, metaKey, altKey } = event;
  if (!target.closest?.(".trainlab-panel")) return;
  const theirs = ctrlKey || metaKey || altKey || (shiftKey && key === "Enter") || key === "Escape";
  target.toggleAttribute("data-lm-suppress-shortcuts", !theirs);
}
// each chart brings a module of its own: one of them listens
window.trainlabKeeps ??= (window.addEventListener("keydown", keep, true), true);

export default {
  render({ model, el }) {
    const view = new View(model, el);
    return () => view.remove();
  },
};
