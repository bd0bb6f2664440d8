// Moves the head over a waveform with its video, and the video to where the waveform is clicked.
// Events of media do not bubble: they are caught on their way down, and hold when the content changes.
const follow = (video) => {
  const wave = video.closest(".player")?.querySelector(".wave");
  if (!wave) return;
  const seconds = parseFloat(wave.dataset.seconds);
  const move = () => {
    wave.querySelector(".head").style.left = `${(100 * Math.min(video.currentTime, seconds)) / seconds}%`;
    wave.querySelector(".time").textContent = `${video.currentTime.toFixed(1)} / ${seconds.toFixed(1)} s`;
    if (!video.paused && !video.ended) requestAnimationFrame(move);
  };
  move();
};
for (const name of ["play", "seeked", "pause", "ended"]) {
  element.addEventListener(name, (event) => event.target.tagName === "VIDEO" && follow(event.target), true);
}
element.addEventListener("click", (event) => {
  const wave = event.target.closest(".wave");
  if (!wave) return;
  const box = wave.getBoundingClientRect();
  const video = wave.closest(".player").querySelector("video");
  video.currentTime = ((event.clientX - box.left) / box.width) * parseFloat(wave.dataset.seconds);
});
