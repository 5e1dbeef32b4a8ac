// @ts-check
// The budget's choice is known before the first drawing, so that its mark is there at once.
recommend();
await load();
let drawing = draw();
dark.addEventListener("change", () => { drawing = drawing.then(draw); });
