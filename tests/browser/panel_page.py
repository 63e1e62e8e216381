"""One panel on a notebook page: its controls moved as a person moves them, and what its charts show."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from browser.notebook_page import NotebookPage
from playwright.sync_api import Locator

SECONDS = 20  # the first Start of a session imports what torch imports late

# Lets a canvas keep the texts that stand on it, each with its box: what no other way can be read from it.
# To be added to a page before it is opened.
RECORD_TEXTS = """(() => {
    const own = CanvasRenderingContext2D.prototype;
    const { clearRect, fillText } = own;
    own.clearRect = function (...box) { this.canvas.texts = []; clearRect.apply(this, box); };
    own.fillText = function (text, x, y) {
        const wide = this.measureText(text).width;
        const left = x - { left: 0, center: wide / 2, right: wide }[this.textAlign];
        this.canvas.texts?.push({ text, left, right: left + wide, top: y - 5, bottom: y + 5 });
        fillText.call(this, text, x, y);
    };
})()"""

# Every control that can be seen: its kind, its name for a screen reader, and its place.
_CONTROLS = """root => {
    const name = each => each.ariaLabel || [...(each.labels ?? [])].map(l => l.textContent).join(' ').trim()
        || each.textContent.trim();
    return [...root.querySelectorAll('button, select, input, canvas[tabindex]')]
        .filter(each => each.checkVisibility() && each.getBoundingClientRect().width && !each.disabled)
        .map(each => [each.type || each.localName, name(each).replace(/\\s+/g, ' ')]); }"""

# Is a colour opaque, and is it half transparent, on the chart of this title? Some twenty pixels count.
_INKED = """(root, [title, [red, green, blue], full, faint]) => {
    const chart = [...root.querySelectorAll('.trainlab-chart')].find(each => each.checkVisibility()
        && each.querySelector('.head .title').textContent === title);
    const canvas = chart.querySelector('.stage > canvas');
    const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    const count = { full: 0, faint: 0 };
    for (let i = 0; i < data.length; i += 4) {
        const away = Math.abs(data[i] - red) + Math.abs(data[i + 1] - green) + Math.abs(data[i + 2] - blue);
        const opaque = data[i + 3];  // a faint curve has 191, and more where it lies over another
        if (away < 20 && opaque > 40) count[opaque > 250 ? 'full' : 'faint'] += 1;
    }
    const agrees = (pixels, wanted) => wanted === null || (wanted ? pixels > 20 : pixels === 0);
    return agrees(count.full, full) && agrees(count.faint, faint); }"""

# Boxes that are cut, or that lie over each other: of controls and lines in the page, of texts on canvases.
_FLAWS = r"""root => {
    const seen = [...root.querySelectorAll('*')].filter(each => each.checkVisibility()
        && each.getBoundingClientRect().width > 1 && !each.closest('.said'));
    const text = each => (each.innerText || each.ariaLabel || each.title || '').slice(0, 40);
    const box = each => each.getBoundingClientRect();
    const cross = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
        && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
    const flaws = [], edge = box(root.closest('.jp-OutputArea'));
    for (const each of seen) {
        const cuts = getComputedStyle(each).display !== 'inline' && each.localName !== 'select';
        const wide = each.scrollWidth > each.clientWidth + 1;
        if (cuts && wide && each.innerText) flaws.push(`cut: ${text(each)}`);
        if (box(each).left < edge.left - 1 || box(each).right > edge.right + 1) {
            flaws.push(`beyond the edge: ${text(each)}`);
        }
    }
    const kinds = 'button, select, input, label, output, .title, .stage, .trainlab-status';
    const leaves = seen.filter(each => each.matches(kinds));
    leaves.forEach((a, i) => leaves.slice(i + 1).forEach(b => {
        if (a.contains(b) || b.contains(a) || !cross(box(a), box(b))) return;
        flaws.push(`over each other: ${text(a)} | ${text(b)}`);
    }));
    for (const canvas of seen.filter(each => each.matches('.stage > canvas'))) {
        const { left, top } = box(canvas), tools = box(canvas.parentNode.querySelector('.tools'));
        const over = new DOMRect(tools.left - left, tools.top - top, tools.width, tools.height);
        canvas.texts.forEach((a, i) => {
            if (a.text.includes('…')) flaws.push(`cut short: ${a.text}`);
            const off = a.left < -1 || a.right > canvas.clientWidth + 1 || a.bottom > canvas.clientHeight + 2;
            if (off) flaws.push(`off the canvas: ${a.text}`);
            if (tools.width && cross(a, over)) flaws.push(`under the tools: ${a.text}`);
            for (const b of canvas.texts.slice(i + 1)) {
                if (cross(a, b)) flaws.push(`over each other: ${a.text} | ${b.text}`);
            }
        });
    }
    return flaws; }"""

# The beginning of a script that asks about the steps that the status tells.
_STEPS = r"""(root, wanted) => {
    const lines = [...root.querySelectorAll('.trainlab-status')].filter(each => each.checkVisibility());
    const text = lines.map(each => each.textContent).join(' ');
    const steps = [...text.matchAll(/step ([\d,]+)/g)].map(found => Number(found[1].replaceAll(',', '')));
    return """
_DRAWN = """(root, before) => [...root.querySelectorAll('.stage > canvas')]
    .filter(each => each.checkVisibility()).map(canvas => canvas.toDataURL()).join(' ') """
_SHOWN_CHARTS = """(root, wanted) => [...root.querySelectorAll('.trainlab-chart .head .title')]
    .filter(each => each.checkVisibility()).map(each => each.textContent).join() === wanted.join()"""
_HAS_BUTTON = """(root, name) => [...root.querySelectorAll('button')]
    .some(each => each.checkVisibility() && each.textContent.trim() === name)"""


@dataclass
class PanelPage:
    """The panel that a cell shows, counted from 0."""

    notebook: NotebookPage
    cell: int

    def show(self) -> PanelPage:
        """Run the cell, afresh, and wait until its charts are drawn."""
        self.notebook.run_cell(self.cell)
        self.until("root => root.querySelector('.trainlab-chart[data-frame]') !== null")
        return self

    @property
    def root(self) -> Locator:
        """All that the cell shows."""
        return (
            self.notebook.page.locator(".jp-NotebookPanel .jp-Cell").nth(self.cell).locator(".trainlab-panel")
        )

    def until(self, script: str, argument: Any = None, seconds: float = SECONDS) -> None:
        """Wait until a script of (root, argument) says yes; a failure tells how the panel stands."""
        page = self.notebook.page
        wrapped = f"""([place, argument]) => {{
            const cell = document.querySelectorAll('.jp-NotebookPanel .jp-Cell')[place];
            const root = cell.querySelector('.trainlab-panel');
            return root && ({script})(root, argument); }}"""
        try:
            page.wait_for_function(wrapped, arg=[self.cell, argument], timeout=seconds * 1000)
        except Exception as error:
            raise AssertionError(f"never {script} of {argument!r}; status: {self.status()}") from error

    # --- what it says

    def status(self) -> str:
        """The line that says how things stand."""
        lines = [
            each.text_content() or ""
            for each in self.root.locator(".trainlab-status").all()
            if each.is_visible()
        ]
        return " ".join(lines)

    def steps(self) -> list[int]:
        """The step of each run, as the status says it."""
        return [int(found.replace(",", "")) for found in re.findall(r"step ([\d,]+)", self.status())]

    def says(self, pattern: str, seconds: float = SECONDS) -> None:
        """Wait until the status has this regular expression."""
        script = """(root, pattern) => [...root.querySelectorAll('.trainlab-status')]
            .some(each => each.checkVisibility() && new RegExp(pattern).test(each.textContent))"""
        self.until(script, pattern, seconds)

    def goes_on(self, steps: int = 3, since: list[int] | None = None) -> None:
        """Wait until every run has taken so many steps more than now, or than `since`."""
        wanted = [step + steps for step in (self.steps() if since is None else since)]
        self.until(_STEPS + "steps.length && steps.every((step, i) => step >= (wanted[i] ?? 1)); }", wanted)

    def stands_at_most(self, step: int) -> None:
        """Wait until no run is beyond this step, and the slider that goes back is at rest there."""
        end = "steps.length && steps.every(step => step <= wanted); }"
        self.until(_STEPS + end, step)
        self.notebook.page.wait_for_timeout(100)

    # --- what is done to it

    def button(self, name: str) -> Locator:
        return (
            self.root.get_by_role("button", name=re.compile(rf"^\W*{name}\W*$")).locator("visible=true").first
        )

    def press(self, name: str) -> None:
        self.button(name).click()

    def turn_to(self, view: str, *charts: str) -> None:
        """Press the button of a view, and wait until its charts, and no others, are there."""
        self.press(view)
        self.until(_SHOWN_CHARTS, list(charts))

    def start(self) -> None:
        self.press("Start")
        self.until(_HAS_BUTTON, "Pause")

    def pause(self) -> None:
        self.press("Pause")
        self.rests()

    def rests(self) -> None:
        """Wait until nothing runs, and the status, which comes last, says how it stands."""
        self.until(_HAS_BUTTON, "Start")
        script = """root => [...root.querySelectorAll('.trainlab-status')]
            .every(each => !each.checkVisibility() || each.role === 'status')"""
        self.until(script)

    def one_step(self) -> None:
        """Press Step, and wait until one is taken."""
        before = self.steps()
        self.press("Step")
        end = """!/ready|running/.test(text) && steps.length
            && steps.every((step, i) => step === (wanted[i] ?? 0) + 1); }"""
        self.until(_STEPS + end, before)

    def slider(self, name: str) -> Locator:
        """The range input of this name, or of this explanation where the name is not its alone."""
        named = self.root.get_by_role("slider", name=name, exact=True)
        return named.or_(self.root.get_by_title(name, exact=True).locator("xpath=self::input")).locator(
            "visible=true"
        )

    def move(self, name: str, key: str = "ArrowRight") -> str:
        """Move a slider by a key; gives what it then stands at."""
        slider = self.slider(name)
        before = slider.get_attribute("aria-valuetext")
        slider.focus()
        self.notebook.page.keyboard.press(key)
        after = slider.get_attribute("aria-valuetext") or ""
        assert after != before, f"{key} does not move {name!r}"
        return after

    # --- what its charts show

    def chart(self, title: str) -> Locator:
        head = self.notebook.page.locator(".head .title", has_text=re.compile(f"^{title}$"))
        return self.root.locator(".trainlab-chart").filter(has=head).locator("visible=true").first

    def frames(self) -> int:
        """Frames that its charts have painted, added up."""
        script = "all => all.reduce((sum, each) => sum + Number(each.dataset.frame ?? 0), 0)"
        return int(self.root.locator(".trainlab-chart").evaluate_all(script))

    def painted(self) -> None:
        """Wait until what has come is drawn."""
        script = "() => new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
        self.notebook.page.evaluate(script)

    def picture(self) -> str:
        """All that is drawn, as one text that is another when a pixel is."""
        script = "all => all.filter(c => c.checkVisibility()).map(canvas => canvas.toDataURL()).join(' ')"
        return str(self.root.locator(".stage > canvas").evaluate_all(script))

    def changes(self, picture: str) -> None:
        """Wait until it shows something else than this picture."""
        self.until(_DRAWN + "!== before", picture)

    def shows(self, picture: str) -> None:
        """Wait until it shows this picture."""
        self.until(_DRAWN + "=== before", picture)

    def draws(self, text: str, seconds: float = SECONDS) -> None:
        """Wait until this text stands on one of its charts, for instance at a mark."""
        script = """(root, text) => [...root.querySelectorAll('.stage > canvas')]
            .some(canvas => canvas.checkVisibility() && canvas.texts?.some(each => each.text === text))"""
        self.until(script, text, seconds)

    def inked(self, title: str, color: str, *, full: bool, faint: bool | None = None) -> None:
        """Wait until this colour is there in full, or is not, and likewise as a faint curve has it."""
        rgb = [int(color[place : place + 2], 16) for place in (1, 3, 5)]
        self.until(_INKED, [title, rgb, full, faint])

    def legend(self, title: str) -> list[str]:
        return self.chart(title).locator(".legend button").all_inner_texts()

    def controls(self) -> list[tuple[str, str]]:
        """Kind and name of every control that can be seen, in the order of the page."""
        return [(kind, name) for kind, name in self.root.evaluate(_CONTROLS)]

    def flaws(self) -> list[str]:
        """What is cut off, or lies over something else, of its controls and of the texts on its charts."""
        found: list[str] = self.root.evaluate(_FLAWS)
        return found
