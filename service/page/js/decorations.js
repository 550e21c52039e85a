// What is drawn on a chart beside its series: marks of events, lines across and down it; and fingers that drag.

const KINDS = { // how an event is marked: a shape as well as a colour
  published: ["▲", "published"], vetoed: ["✕", "bad"], drifted: ["◆", "drift"], "rolled back": ["◀", "muted"], promoted: ["★", "accent"], error: ["✕", "bad"],
};

/** The sign and the colour (token) of a kind of event: the same on every chart and in every legend. */
export function markOf(kind) {
  const [sign, colour] = KINDS[kind] ?? ["●", "muted"];
  return { sign, colour };
}

/** A finger drags as a mouse does; up and down still scroll the page. */
export function fingers(over) {
  over.style.touchAction = "pan-y";
  for (const [pointer, mouse] of [["pointerdown", "mousedown"], ["pointermove", "mousemove"], ["pointerup", "mouseup"], ["pointercancel", "mouseup"]]) {
    over.addEventListener(pointer, ({ pointerType, clientX, clientY }) => {
      if (pointerType === "touch") over.dispatchEvent(new MouseEvent(mouse, { bubbles: true, clientX, clientY, movementX: 1 }));
    });
  }
}

/** A line down the chart at x (canvas pixels), if it is inside. */
export function vertical(ctx, x, bbox, colour, dash, scale) {
  if (x < bbox.left || x > bbox.left + bbox.width) return;
  ctx.beginPath();
  ctx.setLineDash(dash);
  ctx.strokeStyle = colour;
  ctx.lineWidth = scale;
  ctx.moveTo(x, bbox.top);
  ctx.lineTo(x, bbox.top + bbox.height);
  ctx.stroke();
}

/** A line across the chart at a value of y, with its label at the right, if it is inside. */
export function level(u, value, label, colour, dash, scale) {
  const { ctx, bbox } = u;
  const y = Math.round(u.valToPos(value, "y", true));
  if (!Number.isFinite(y) || y < bbox.top || y > bbox.top + bbox.height) return;
  ctx.beginPath();
  ctx.setLineDash(dash);
  ctx.strokeStyle = colour;
  ctx.lineWidth = 1.5 * scale;
  ctx.moveTo(bbox.left, y);
  ctx.lineTo(bbox.left + bbox.width, y);
  ctx.stroke();
  ctx.fillStyle = colour;
  ctx.textAlign = "right";
  ctx.textBaseline = y - bbox.top < 16 * scale ? "top" : "bottom"; // inside the chart
  ctx.fillText(label, bbox.left + bbox.width - 4 * scale, y + (y - bbox.top < 16 * scale ? 3 : -3) * scale);
}
