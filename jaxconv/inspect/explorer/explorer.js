"use strict";
// Draws the pages of EXPLORER (data.js). The part of the address after # chooses the page, so that Back works.

const SVG = "http://www.w3.org/2000/svg";
const HEAT = 48; // the side of a map, _HEAT of steps.py
const layers = EXPLORER.layers;
const [height, width] = EXPLORER.input;
const main = document.getElementById("main");
const layerAt = new Map(layers.map((layer, index) => [layer.path, index]));
const unitAt = layers.map((layer) => new Map(layer.units.map((unit, index) => [unit.channel, index])));
let chosenImage = 0;

// An element with attributes and children; a null child is left out, a string becomes text.
function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (name === "on") for (const [event, action] of Object.entries(value)) node.addEventListener(event, action);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}
const el = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const svg = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);
const link = (address, ...children) => el("a", { href: "#" + address }, ...children);

const short = (number) => Number(number.toPrecision(3)).toString();
const percent = (share) => (100 * share).toFixed(Math.abs(share) < 0.1 ? 1 : 0) + "%";
const shapeText = (shape) => (Array.isArray(shape[0]) ? shape.map(shapeText).join(", ") : shape.join(" × ") || "number");
const unitName = (layer, unit) => (unit.name ? unit.name : "channel " + unit.channel);

// --- Pictures ---------------------------------------------------------------------------------------------------------

const exact = Math.max(height, width) <= 64 ? "picture exact" : "picture";

function photo(index) {
  return svg("image", { href: EXPLORER.files[index], width, height, preserveAspectRatio: "none" });
}

// A part of an image: the box is top, bottom, left, right.
function patch(index, [top, bottom, left, right], label) {
  const view = `${left} ${top} ${right - left} ${bottom - top}`;
  return svg("svg", { viewBox: view, role: "img", "aria-label": label, class: exact }, photo(index));
}

function whole(index, label, ...over) {
  return svg("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: exact }, photo(index), ...over);
}

function framed(index, [top, bottom, left, right], label) {
  const box = { x: left, y: top, width: right - left, height: bottom - top };
  return whole(index, label, svg("rect", { ...box, class: "field dark" }), svg("rect", { ...box, class: "field" }));
}

// An image under the map of a layer; column 0 has responses, column 1 Grad-CAM.
function mapped(index, layer, column, label) {
  const tile = svg(
    "svg",
    { x: 0, y: 0, width, height, viewBox: `${column * HEAT} ${layer * HEAT} ${HEAT} ${HEAT}`, preserveAspectRatio: "none" },
    svg("image", { href: EXPLORER.shown[index].heat, width: 2 * HEAT, height: layers.length * HEAT, preserveAspectRatio: "none" }),
  );
  return whole(index, label, tile);
}

function preferred(unit, label) {
  if (unit.image === null) return el("span", { class: "dead" }, "does not fire from noise");
  return el("img", { src: unit.image, alt: label, loading: "lazy", class: unit.image.endsWith("png") ? "exact" : null });
}

function histogram(distribution) {
  const { low, high, counts, mean, zeros } = distribution;
  const most = Math.max(...counts);
  const bars = counts.map((count, i) => {
    const size = count ? Math.max(1, (100 * Math.sqrt(count)) / Math.sqrt(most)) : 0;
    return svg("rect", { x: i * 10 + 1, width: 8, y: 100 - size, height: size });
  });
  const text = `Activations from ${short(low)} to ${short(high)}, mean ${short(mean)}, ${percent(zeros)} are zero`;
  return el(
    "figure",
    { style: "margin: 0" },
    svg(
      "svg",
      { viewBox: `0 0 ${counts.length * 10} 100`, preserveAspectRatio: "none", role: "img", class: "histogram", "aria-label": "Histogram. " + text },
      ...bars,
    ),
    el("figcaption", {}, text + ". Bars grow with the square root of the count."),
  );
}

// --- The network ------------------------------------------------------------------------------------------------------

function glyph(shape) {
  if (Array.isArray(shape[0]) || !shape.length) return null;
  const side = shape.length > 1 ? 6 + 5 * Math.log2(1 + (shape[0] * 64) / height) : 6;
  const depth = Math.min(1, 0.15 + Math.log2(1 + shape[shape.length - 1]) / 14);
  return el("span", { class: "glyph", style: `--side: ${side.toFixed(1)}px; --depth: ${depth.toFixed(2)}`, "aria-hidden": "true" });
}

function count(nodes) {
  return nodes.reduce((sum, node) => sum + (node.inside ? count(node.inside) : 1), 0);
}

function networkNode(node) {
  const index = layerAt.get(node.path);
  const name = node.name || node.type;
  const label = index === undefined || !node.name ? el("span", { class: "name" }, name) : link(`layer/${index}`, name);
  const box = el(
    "div",
    { class: "box" },
    glyph(node.shape),
    label,
    node.name ? el("span", {}, node.type) : null,
    el("span", { class: "soft" }, shapeText(node.shape)),
    node.parameters ? el("span", { class: "soft" }, node.parameters.toLocaleString("en") + " parameters") : null,
    index === undefined || !node.name ? null : el("span", { class: "soft" }, layers[index].units.length + " units"),
  );
  const item = el("li", { class: index === undefined || !node.name ? null : "explored" }, box);
  if (node.inside) {
    const n = count(node.inside);
    const list = node.arrangement === "branches" ? el("ul", { class: "branches" }) : el("ol", {});
    list.append(...node.inside.map(networkNode));
    const some = node.inside.some((child) => child.inside || layerAt.has(child.path));
    const plus = { residual: ", added to the input", gate: ", multiplied by the input", branches: ", side by side" }[node.arrangement] || "";
    item.append(el("details", some ? { open: "" } : {}, el("summary", {}, `${n} layer${n === 1 ? "" : "s"} inside${plus}`), list));
  }
  return item;
}

function networkPage() {
  const top = EXPLORER.network.inside || [EXPLORER.network];
  return [
    "Network",
    el("p", {}, `Input ${shapeText(EXPLORER.input)}. ${layers.length} layers have pages of their units.`),
    el("ol", { class: "network", "aria-label": "Layers of the network" }, ...top.map(networkNode)),
  ];
}

// --- A layer ----------------------------------------------------------------------------------------------------------

function trail(...items) {
  return el("ul", { class: "trail" }, ...items.filter(Boolean).map((item) => el("li", {}, item)));
}

function fieldText(field) {
  if (!field) return "unknown";
  const parts = field.map((axis) => (axis.exact ? "" : "about ") + short(axis.size) + (axis.stride ? `, every ${short(axis.stride)} pixels` : ""));
  return parts[0] === parts[1] ? parts[0] + " (rows and columns)" : parts.join(" and ");
}

function facts(layer) {
  const rows = [
    ["Type", layer.type],
    ["Output", shapeText(layer.shape)],
    ["Parameters", layer.parameters ? layer.parameters.toLocaleString("en") : null],
    ["Receptive field", fieldText(layer.field)],
  ];
  return el("dl", { class: "facts" }, ...rows.filter((row) => row[1]).flatMap(([name, text]) => [el("dt", {}, name), el("dd", {}, text)]));
}

function imageChoice(index) {
  if (!EXPLORER.shown.length) return null;
  const holder = el("div", { class: "pair" });
  const draw = () => {
    holder.replaceChildren(
      el("figure", {}, whole(chosenImage, `Image ${chosenImage}`), el("figcaption", {}, link(`image/${chosenImage}`, `All layers on image ${chosenImage}`))),
      el("figure", {}, mapped(chosenImage, index, 0, `Response of this layer to image ${chosenImage}`), el("figcaption", {}, "Response")),
      el("figure", {}, mapped(chosenImage, index, 1, `Grad-CAM of this layer on image ${chosenImage}`), el("figcaption", {}, "Grad-CAM of the top class")),
    );
  };
  const select = el("select", { id: "image", on: { change: () => { chosenImage = Number(select.value); draw(); } } },
    ...EXPLORER.shown.map((_, i) => el("option", { value: i, ...(i === chosenImage ? { selected: "" } : {}) }, `Image ${i}`)));
  draw();
  return [el("h2", {}, "Response to an image"), el("p", {}, el("label", { for: "image" }, "Image: "), select), holder];
}

function layerPage(index) {
  const layer = layers[index];
  const units = layer.units.map((unit, i) =>
    el("li", {}, link(`unit/${index}/${i}`, preferred(unit, ""), el("span", {}, unitName(layer, unit)))));
  const channels = layer.shape[layer.shape.length - 1];
  return [
    layer.path,
    trail(
      index > 0 ? link(`layer/${index - 1}`, "Previous layer: " + layers[index - 1].path) : null,
      index + 1 < layers.length ? link(`layer/${index + 1}`, "Next layer: " + layers[index + 1].path) : null,
    ),
    facts(layer),
    imageChoice(index),
    el("h2", {}, `Preferred inputs of ${units.length === channels ? "all" : units.length + " of"} ${channels} units`),
    el("ul", { class: "units" }, ...units),
  ];
}

// --- A unit -----------------------------------------------------------------------------------------------------------

function channelLink(index, channel) {
  const unit = unitAt[index].get(channel);
  const layer = layers[index];
  return unit === undefined ? `channel ${channel}` : link(`unit/${index}/${unit}`, unitName(layer, layer.units[unit]));
}

function shares(rows) {
  return el(
    "table",
    {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Unit"), el("th", { scope: "col" }, "Layer"), el("th", { scope: "col" }, "Share"))),
    el("tbody", {}, ...rows.map(([index, channel, share]) =>
      el("tr", {},
        el("td", {}, channelLink(index, channel)),
        el("td", {}, link(`layer/${index}`, layers[index].path)),
        el("td", {}, el("span", { class: share < 0 ? "bar minus" : "bar", style: `width: ${(160 * Math.abs(share)).toFixed(0)}px`, "aria-hidden": "true" }), " " + percent(share))))),
  );
}

function unitPage(index, number) {
  const layer = layers[index];
  const unit = layer.units[number];
  const name = unitName(layer, unit);
  const readers = [];
  layers.forEach((other, i) => other.units.forEach((reader) => {
    const own = reader.feeds.find(([from, channel]) => from === index && channel === unit.channel);
    if (own) readers.push([i, reader.channel, own[2]]);
  }));
  readers.sort((a, b) => Math.abs(b[2]) - Math.abs(a[2]));
  return [
    `${layer.path}, ${name}`,
    trail(
      link(`layer/${index}`, "Layer " + layer.path),
      number > 0 ? link(`unit/${index}/${number - 1}`, "Previous unit") : null,
      number + 1 < layer.units.length ? link(`unit/${index}/${number + 1}`, "Next unit") : null,
    ),
    el("div", { class: "about" },
      el("figure", {}, preferred(unit, "Preferred input of " + name), el("figcaption", {}, "Preferred input, by gradient ascent from noise")),
      el("div", {}, el("h2", {}, "Activations"), histogram(unit.histogram))),
    el("h2", {}, "Highest activations"),
    el("ul", { class: "top" }, ...unit.top.map(([image, score, top, bottom, left, right]) => {
      const box = [top, bottom, left, right];
      const shown = image < EXPLORER.shown.length;
      return el("li", {}, el("figure", { style: "margin: 0" },
        el("div", { class: "two" }, patch(image, box, `Patch of image ${image}`), framed(image, box, `Receptive field on image ${image}`)),
        el("figcaption", {}, short(score) + " on ", shown ? link(`image/${image}`, `image ${image}`) : `image ${image}`)));
    })),
    el("div", { class: "columns" },
      el("section", { "aria-labelledby": "feeds" },
        el("h2", { id: "feeds" }, "Units that feed it"),
        unit.feeds.length
          ? [el("p", { class: "soft" }, "Activation times gradient at its highest activations, as a share of all channels; negative shares lower it."), shares(unit.feeds)]
          : el("p", {}, "None of the explored layers comes before it.")),
      readers.length
        ? el("section", { "aria-labelledby": "fed" }, el("h2", { id: "fed" }, "Units that it feeds"),
            el("p", { class: "soft" }, "Units of explored layers with this unit among the channels that contribute most."), shares(readers.slice(0, 6)))
        : null),
  ];
}

// --- Images -----------------------------------------------------------------------------------------------------------

function imagesPage() {
  if (!EXPLORER.shown.length) return ["Images", el("p", {}, "No image was chosen for display.")];
  return [
    "Images",
    el("p", {}, "Choose an image to see the response of each layer and Grad-CAM."),
    el("ul", { class: "pictures" }, ...EXPLORER.shown.map((entry, i) =>
      el("li", {}, link(`image/${i}`, whole(i, `Image ${i}`), entry.scores ? entry.scores[0][1] : `image ${i}`)))),
  ];
}

function imagePage(index) {
  chosenImage = index;
  const entry = EXPLORER.shown[index];
  return [
    `Image ${index}`,
    trail(
      link("images", "All images"),
      index > 0 ? link(`image/${index - 1}`, "Previous image") : null,
      index + 1 < EXPLORER.shown.length ? link(`image/${index + 1}`, "Next image") : null,
    ),
    el("div", { class: "about" },
      el("figure", {}, whole(index, `Image ${index}`)),
      entry.scores
        ? el("div", {}, el("h2", { id: "scores" }, "Highest scores"),
            el("table", { "aria-labelledby": "scores" },
              el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Class"), el("th", { scope: "col" }, "Score"))),
              el("tbody", {}, ...entry.scores.map(([, name, score]) => el("tr", {}, el("td", {}, name), el("td", {}, short(score)))))))
        : el("p", {}, "The network does not return class scores.")),
    el("h2", {}, "Layers"),
    el("ul", { class: "responses" }, ...layers.map((layer, i) =>
      el("li", {},
        el("figure", { style: "margin: 0" }, mapped(index, i, 0, `Response of ${layer.path}`), el("figcaption", {}, "Response")),
        el("figure", { style: "margin: 0" }, mapped(index, i, 1, `Grad-CAM at ${layer.path}`), el("figcaption", {}, "Grad-CAM")),
        el("div", {}, el("strong", {}, link(`layer/${i}`, layer.path)), " ", el("span", { class: "soft" }, shapeText(layer.shape)),
          el("p", {}, "Most active: ", ...entry.units[i].flatMap(([channel, value], n) => [n ? ", " : "", channelLink(i, channel), ` (${short(value)})`])))))),
  ];
}

// --- Which page -------------------------------------------------------------------------------------------------------

function page(address) {
  const [kind, first, second] = address.split("/");
  const at = [first, second].map(Number);
  if (kind === "" || kind === "network") return networkPage();
  if (kind === "images") return imagesPage();
  if (kind === "layer" && layers[at[0]]) return layerPage(at[0]);
  if (kind === "unit" && layers[at[0]] && layers[at[0]].units[at[1]]) return unitPage(at[0], at[1]);
  if (kind === "image" && EXPLORER.shown[at[0]]) return imagePage(at[0]);
  return ["Not found", el("p", {}, "There is no page at this address. ", link("network", "Go to the network"), ".")];
}

function show(moved) {
  const [title, ...parts] = page(decodeURIComponent(location.hash.slice(1)));
  const heading = el("h1", { tabindex: "-1" }, title);
  main.replaceChildren(heading, ...parts.flat().filter(Boolean));
  document.title = `${title} · ${EXPLORER.title}`;
  if (moved) {
    // A screen reader announces the new page, and the keyboard goes on from its top.
    heading.focus();
    window.scrollTo(0, 0);
  }
}

// The arrow keys go to the previous and the next layer, unit or image.
function onKey(event) {
  if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest("select, summary")) return;
  const step = { ArrowLeft: "Previous", ArrowRight: "Next" }[event.key];
  const target = step && [...main.querySelectorAll(".trail a")].find((a) => a.textContent.startsWith(step));
  if (target) location.hash = target.hash;
}

document.getElementById("skip").addEventListener("click", () => main.querySelector("h1").focus());
window.addEventListener("hashchange", () => show(true));
window.addEventListener("keydown", onKey);
show(false);
