// The slider over training time, and the name of the image that is pointed at. Without scripts, the last images stay.
for (const time of document.querySelectorAll(".time")) {
  const slider = time.querySelector("input"), said = time.querySelector("output"), told = time.querySelector(".told");
  const shown = document.getElementById(time.dataset.of);
  if (slider) {
    const words = JSON.parse(slider.dataset.words);
    const move = () => { shown.dataset.moment = slider.value; said.textContent = words[slider.value]; };
    slider.addEventListener("input", move);
    slider.hidden = false;
    move(); // a browser may keep the slider's place when a page is loaded again
  }
  const tell = (event) => { if (event.target.matches("i")) told.textContent = event.target.title; };
  for (const kind of ["mouseover", "click"]) shown.addEventListener(kind, tell);
}
