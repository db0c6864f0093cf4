
/** Draws all anew for paper, which is light and narrow, and again for the screen. */
function drawForPaper(draw) {
  for (const [event, printing] of [["beforeprint", true], ["afterprint", false]]) {
    addEventListener(event, () => {
      document.documentElement.toggleAttribute("data-printing", printing);
      draw();
    });
  }
}
