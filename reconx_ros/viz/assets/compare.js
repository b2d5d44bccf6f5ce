"use strict";
for (const root of document.querySelectorAll(".compare")) {
  const data = JSON.parse(root.querySelector("script").textContent);
  const find = (name) => root.querySelector(name);
  const [leftName, rightName] = [find("select.left"), find("select.right")];
  const [leftPicture, rightPicture] = [find("img.left"), find("img.right")];
  const cut = find("input");
  let shown = 0;

  const options = () => Object.keys(data.titles).filter((key) => key in data.views[shown].pictures);

  function fill(select, wanted) {
    const keys = options();
    select.replaceChildren(...keys.map((key) => new Option(data.titles[key], key)));
    select.value = keys.includes(wanted) ? wanted : keys[0];
  }

  function swatches() {
    const rows = [...new Set([leftName.value, rightName.value])].flatMap((key) => data.legends[key] || []);
    find(".swatches").replaceChildren(...rows.map(([colour, text]) => {
      const item = document.createElement("span");
      const swatch = document.createElement("i");
      swatch.style.background = colour;
      item.append(swatch, text);
      return item;
    }));
  }

  function draw() {
    const view = data.views[shown];
    leftPicture.src = view.pictures[leftName.value];
    rightPicture.src = view.pictures[rightName.value];
    leftPicture.alt = `${data.titles[leftName.value]}, ${view.name}`;
    rightPicture.alt = `${data.titles[rightName.value]}, ${view.name}`;
    find(".tag.l").textContent = data.titles[leftName.value];
    find(".tag.r").textContent = data.titles[rightName.value];
    find(".said").textContent = view.note ? `${view.name}: ${view.note}` : view.name;
    root.querySelectorAll(".thumbs button").forEach((b, i) => b.setAttribute("aria-pressed", String(i === shown)));
    swatches();
  }

  function show(index) {
    const [left, right] = [leftName.value, rightName.value];
    shown = index;
    fill(leftName, left || data.left);
    fill(rightName, right || data.right);
    draw();
  }

  data.views.forEach((view, index) => {
    const button = document.createElement("button");
    const picture = document.createElement("img");
    picture.src = view.pictures[data.thumb] || Object.values(view.pictures)[0];
    picture.alt = view.name;
    button.type = "button";
    button.title = view.name;
    button.append(picture, view.short);
    button.addEventListener("click", () => show(index));
    find(".thumbs").append(button);
  });
  find(".thumbs").hidden = data.views.length < 2;
  cut.addEventListener("input", () => find(".stage").style.setProperty("--cut", `${cut.value}%`));
  leftName.addEventListener("change", draw);
  rightName.addEventListener("change", draw);
  show(0);
}
